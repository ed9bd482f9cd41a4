"""RL rounds on real engines, killed on the way: policy and tokens as if nobody had disturbed them."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from k15.store.rollouts import SEGMENTS_FILE
from tests.bench.faults import inject
from tests.ledger import Watch, account
from tests.rl_stage import RlStage, weights_digest
from tests.s3 import S3Server, s3_server

pytestmark = pytest.mark.soak
RECIPE = {
    "rounds": 6,
    "prompts_per_round": 12,
    "samples_per_prompt": 4,
    "max_response_tokens": 96,
    "phase_token_budget": 24,
    "update": {"lr": 1e-3},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server of these tests."""
    with s3_server(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


@pytest.fixture
def rl(server: S3Server, tmp_path: Path) -> Iterator[RlStage]:
    """A store with a model; what still runs is ended."""
    made = RlStage(server, "rounds", tmp_path)
    yield made
    made.end()


def test_killed_twice_with_no_weights_stored_it_ends_as_undisturbed(rl: RlStage, server: S3Server) -> None:
    job, watch, drawn = rl.rl(RECIPE, every=100), Watch(), random.Random(3)
    inject(rl, server, job, "stages.rl", "trained", drawn, watch)
    inject(rl, server, job, "stages.sampler", "middle", drawn, watch)
    assert "train_again" in rl.run(job)
    calm = rl.rl({**RECIPE, "priority_prior": 0.4})  # which a uniform sampler does not read
    rl.run(calm)
    figures = account(rl, job, watch)
    assert [figures[name] for name in ("prompts_skipped", "prompts_twice", "tokens_unaccounted")] == [0, 0, 0]
    assert figures["tokens_lost_after_stored"] == 0 < figures["tokens_trained"]
    for mine, theirs in zip(rl.rounds(job), rl.rounds(calm), strict=True):
        assert rl.table(mine, SEGMENTS_FILE) == rl.table(theirs, SEGMENTS_FILE)
    assert weights_digest(rl.manifest(job)) == weights_digest(rl.manifest(calm))
    held = [any(file.path.startswith("model/") for file in record.files) for record in rl.rounds(job)]
    assert held == [False] * 5 + [True]
