"""A real SFT stage, killed again and again: its weights are those of one that was left alone, to the bit."""

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from k15.recipes.pipeline import Resources
from k15.recipes.supervised import Optimizer, Phase, SftRecipe
from k15.store.gc import gc
from tests.s3 import S3Server, s3_server
from tests.stages.stored import SftStage, make_model, sft_stage

pytestmark = [pytest.mark.engine, pytest.mark.services, pytest.mark.slow]
STEPS = 60
EVERY = 4
RATES = {"lr": 3e-3, "final_lr": 1e-3, "warmup_steps": 4}
RECIPES = {
    "plain": SftRecipe(steps=STEPS, examples_per_step=128, optimizer=Optimizer(**RATES)),
    "phases": SftRecipe(  # packed, then one by one, each from a mixture of its own
        phases=(
            Phase(
                name="packed",
                steps=25,
                sequences_per_step=24,
                max_tokens=64,
                mixture={"sums": 1, "steps": 2},
                mixture_by="tokens",
                **RATES,
            ),
            Phase(
                name="short",
                steps=STEPS - 25,
                examples_per_step=128,
                mixture={"sums": 3, "steps": 1},
                **RATES,
            ),
        )
    ),
}


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server of these tests."""
    with s3_server(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of these tests."""
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(params=[pytest.param("plain", marks=pytest.mark.soak), "phases"])
def stages(
    seaweed: S3Server, model_directory: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[SftStage, SftStage]]:
    """The same stage twice, each in a store of its own."""
    recipe, resources = RECIPES[request.param], Resources(checkpoint_every_steps=EVERY)
    names = [f"{request.param}/{name}" for name in ("undisturbed", "disturbed")]
    with (
        sft_stage(seaweed, names[0], model_directory, recipe, resources) as one,
        sft_stage(seaweed, names[1], model_directory, recipe, resources) as other,
    ):
        yield one, other


def resumed_at(out: str) -> int:
    return int(out.partition("resumed step=")[2].split()[0])


def test_killed_at_random_steps_it_ends_with_the_same_weights(
    stages: tuple[SftStage, SftStage],
) -> None:
    undisturbed, disturbed = stages
    assert undisturbed.job.key == disturbed.job.key
    reference = undisturbed.start()
    source = random.Random(7)
    last = 0
    for lowest in (4, 16, 28):
        code, out, _ = disturbed.end_at(lowest + source.randrange(8), signal.SIGKILL, source.random() * 0.3)
        assert code == -signal.SIGKILL
        assert last == (resumed_at(out) if last else 0)
        record = disturbed.steps.last()
        assert record is not None
        assert last < record.number < STEPS
        last = record.number
        assert last % EVERY == 0
    code, out, err = disturbed.end_at(last + EVERY, signal.SIGTERM, 0.1)
    assert (code, resumed_at(out)) == (1, last)
    record = disturbed.steps.last()
    assert record is not None
    assert f"error: stopped after step {record.number} of {STEPS}" in err
    assert len(disturbed.steps.records()) == 2

    weights = next(entry for entry in record.files if entry.path == "trainer/exp_avg/model.safetensors")
    path = f"attempts/{disturbed.job.key}/{record.attempt}/{weights.path}"
    whole = disturbed.store.objects.get(path)
    disturbed.store.objects.put(path, whole[:-100])
    code, out, err = disturbed.end(disturbed.start())
    assert (code, "what=steps" in out) == (2, False)
    assert err.startswith(f"error: {disturbed.store.objects.uri(path)}: corrupt")
    assert f"delete {disturbed.steps.uri(record)}" in err
    disturbed.store.objects.put(path, whole)

    code, out, err = disturbed.end(disturbed.start())
    assert (code, resumed_at(out)) == (0, record.number), err
    assert disturbed.store.objects.list("steps/") == []
    gc(disturbed.store, grace_s=-5)
    attempts = disturbed.store.objects.list(f"attempts/{disturbed.job.key}/")
    assert {info.path.split("/")[2] for info in attempts} == {disturbed.result().attempt}

    assert undisturbed.end(reference)[0] == 0
    assert undisturbed.result().part_digest("model") == disturbed.result().part_digest("model")
    assert [row["step"] for row in disturbed.metrics()] == list(range(STEPS))
    assert disturbed.metrics() == undisturbed.metrics()
