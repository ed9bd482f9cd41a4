"""Commits of RL rounds against a real S3 server: in order, in the background, whole or not at all."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from k15.loops.clock import Clock
from k15.loops.history import Played
from k15.loops.replay import ReplayState
from k15.store.artifact import Store
from k15.store.journal import Journals
from stages.rounds import RoundCommit, newest_weights
from tests.s3 import s3_server

KEY = "5" * 64
pytestmark = pytest.mark.engine


class Weights:
    """A trainer whose weights are the number of updates it made."""

    def __init__(self) -> None:
        self.updates = 0

    def save(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "model.safetensors").write_text(str(self.updates))


class Stage:
    """What a commit needs of a stage's context."""

    def __init__(self, store: Store, scratch: Path) -> None:
        self.store, self.scratch = store, scratch
        self.job = SimpleNamespace(key=KEY)
        self.logged: list[int] = []
        self.metrics = SimpleNamespace(log=lambda step, **row: self.logged.append(step))
        self.progress = lambda done, total, what: None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with s3_server(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


@pytest.fixture
def stage(server: Any, tmp_path: Path) -> Stage:
    environment = server.environment | {"K15_S3_PREFIX": f"test/{tmp_path.name}"}
    return Stage(Store.from_environment(environment), tmp_path)


@contextmanager
def committing(stage: Stage, trainer: Weights, rounds: int, **options: Any) -> Iterator[RoundCommit]:
    """Commits to the stage, with its journals."""
    with (
        Journals(stage.store, KEY) as journals,
        RoundCommit(stage, trainer, journals, rounds=rounds, **options) as commit,
    ):
        yield commit


def play(commit: RoundCommit, trainer: Weights, number: int, *, updated: bool, last: bool = False) -> None:
    trainer.updates += updated
    row = {
        "round": number,
        "num_updates": float(updated),
        "pass_rate": 0.0,
        "tokens_mean": 0.0,
        "reward": 0.0,
        "mismatch_mean": 0.0,
        "sampled_tokens": 0,
        "train_tokens": 0,
    }
    after = ReplayState(number + 1)
    played = Played(
        number, number, after, row, (), (), (), ((number, number),) * updated, updated=updated, last=last
    )
    commit(played, Clock())


def weights(stage: Stage, rounds: list[Any]) -> list[bytes | None]:
    """What each round stored of its weights."""
    names = [{file.path for file in record.files} for record in rounds]
    path = "model/model.safetensors"
    return [
        stage.store.open_round(r).read_bytes(path) if path in found else None
        for r, found in zip(rounds, names, strict=True)
    ]


def test_rounds_are_committed_in_order_with_the_weights_they_ended_with(stage: Stage) -> None:
    trainer = Weights()
    with committing(stage, trainer, 4) as commit:
        for number, updated in enumerate((True, False, True, False)):
            play(commit, trainer, number, updated=updated)
    rounds = stage.store.rounds(KEY)
    assert [r.number for r in rounds] == stage.logged == [0, 1, 2, 3]
    assert weights(stage, rounds) == [b"1", None, b"2", None]
    assert [newest_weights(rounds[: n + 1]).number for n in range(4)] == [0, 0, 2, 2]  # type: ignore[union-attr]
    assert newest_weights(rounds[1:2]) is None
    assert all(r.state["row"]["orchestration_s"] >= 0 for r in rounds)


def test_weights_are_stored_every_so_many_rounds_and_with_the_last(stage: Stage) -> None:
    trainer = Weights()
    with committing(stage, trainer, 6, every=3) as commit:
        for number, updated in enumerate((True, True, False, True, False)):
            play(commit, trainer, number, updated=updated, last=number == 4)
    assert weights(stage, stage.store.rounds(KEY)) == [None, None, b"2", None, b"3"]


def test_a_resumed_stage_stores_the_weights_it_trained_again(stage: Stage) -> None:
    trainer = Weights()
    trainer.updates = 7
    with committing(stage, trainer, 6, every=1, unsaved=True) as commit:
        play(commit, trainer, 0, updated=False)
    assert weights(stage, stage.store.rounds(KEY)) == [b"7"]


def test_the_next_round_goes_on_while_the_last_one_is_on_its_way(stage: Stage) -> None:
    trainer, may_go_on, begin = Weights(), threading.Event(), stage.store.begin

    def slow_begin(key: str) -> Any:
        assert may_go_on.wait(30)
        return begin(key)

    stage.store.begin = slow_begin  # type: ignore[method-assign]
    with committing(stage, trainer, 9) as commit:
        play(commit, trainer, 0, updated=True)
        assert stage.store.rounds(KEY) == []
        trainer.updates += 1  # what the next round does to the weights does not reach the commit
        may_go_on.set()
    assert weights(stage, stage.store.rounds(KEY)) == [b"1"]


def test_a_round_another_writer_committed_ends_the_phase(stage: Stage) -> None:
    trainer = Weights()
    stage.store.commit_round(KEY, 0, stage.store.begin(KEY), {})
    with (
        Journals(stage.store, KEY) as journals,
        RoundCommit(stage, trainer, journals, rounds=9) as commit,
    ):
        journals.ask(0, 3)
        journals.ask(1, 4)  # of the round after one that is not the stored one
        play(commit, trainer, 0, updated=True)
        with pytest.raises(RuntimeError, match="round 0 was committed late by a process .* lost its lease"):
            commit._settle()
        journals.ask(1, 5)
    assert stage.logged == []
    assert Journals(stage.store, KEY).begin(1).tries == 0


def test_a_fault_in_a_round_leaves_the_rounds_before_it_committed(stage: Stage) -> None:
    trainer = Weights()
    with pytest.raises(ZeroDivisionError):  # noqa: SIM117
        with committing(stage, trainer, 9) as commit:
            play(commit, trainer, 0, updated=True)
            raise ZeroDivisionError
    assert len(stage.store.rounds(KEY)) == 1
