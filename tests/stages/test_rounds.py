"""Commits of RL rounds against a real S3 server: in order, in the background, whole or not at all."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from k15.loops.replay import ReplayState
from k15.loops.rl import Clock
from k15.store.artifact import Store
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


def play(commit: RoundCommit, trainer: Weights, number: int, *, updated: bool) -> None:
    trainer.updates += updated
    row = {
        "round": number,
        "num_updates": float(updated),
        "pass_rate": 0.0,
        "tokens_mean": 0.0,
        "reward": 0.0,
        "mismatch_mean": 0.0,
    }
    commit(ReplayState(number + 1), row, [], Clock())


def test_rounds_are_committed_in_order_with_the_weights_they_ended_with(stage: Stage) -> None:
    trainer = Weights()
    with RoundCommit(stage, trainer, 4) as commit:
        for number, updated in enumerate((True, False, True, False)):
            play(commit, trainer, number, updated=updated)
    rounds = stage.store.rounds(KEY)
    assert [r.number for r in rounds] == stage.logged == [0, 1, 2, 3]
    assert [len(r.files) for r in rounds] == [1, 0, 1, 0]
    held = [newest_weights(rounds[: n + 1]) for n in range(4)]
    weights = [stage.store.open_round(r).read_bytes("model/model.safetensors") for r in held if r]
    assert weights == [b"1", b"1", b"2", b"2"]
    assert newest_weights(rounds[1:2]) is None
    assert all(r.state["row"]["orchestration_s"] >= 0 for r in rounds)


def test_the_next_round_goes_on_while_the_last_one_is_on_its_way(stage: Stage) -> None:
    trainer, may_go_on, begin = Weights(), threading.Event(), stage.store.begin

    def slow_begin(key: str) -> Any:
        assert may_go_on.wait(30)
        return begin(key)

    stage.store.begin = slow_begin  # type: ignore[method-assign]
    with RoundCommit(stage, trainer, 9) as commit:
        play(commit, trainer, 0, updated=True)
        assert stage.store.rounds(KEY) == []
        trainer.updates += 1  # what the next round does to the weights does not reach the commit
        may_go_on.set()
    (only,) = stage.store.rounds(KEY)
    assert stage.store.open_round(only).read_bytes("model/model.safetensors") == b"1"


def test_a_round_another_writer_committed_ends_the_phase(stage: Stage) -> None:
    trainer = Weights()
    stage.store.commit_round(KEY, 0, stage.store.begin(KEY), {})
    with pytest.raises(RuntimeError, match="round 0 was committed by another writer"):  # noqa: SIM117
        with RoundCommit(stage, trainer, 9) as commit:
            play(commit, trainer, 0, updated=True)
    assert stage.logged == []


def test_a_fault_in_a_round_leaves_the_rounds_before_it_committed(stage: Stage) -> None:
    trainer = Weights()
    with pytest.raises(ZeroDivisionError):  # noqa: SIM117
        with RoundCommit(stage, trainer, 9) as commit:
            play(commit, trainer, 0, updated=True)
            raise ZeroDivisionError
    assert len(stage.store.rounds(KEY)) == 1
