"""Where an RL stage goes on: the last committed round, the newest weights, and the updates in between."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow

from k15.loops.history import History
from k15.loops.replay import JudgedGroup, ReplayState
from k15.stage import StageContext
from k15.store.manifest import RoundManifest
from stages.rounds import WEIGHTS, newest_weights

log = logging.getLogger("stages.rl")


@dataclass(frozen=True)
class Start:
    """What the stage goes on from."""

    model_dir: Path  # weights of policy `version`
    version: int
    state: ReplayState
    again: tuple[tuple[int, int, list[JudgedGroup]], ...]  # updates to make up: see loops.rl.train_again


def starting_point(ctx: StageContext) -> Start:
    """After the last committed round; the input model and an empty state before the first."""
    rounds = ctx.store.rounds(ctx.job.key)
    history = History(rounds, reader(ctx))
    state = history.state()
    newest = newest_weights(rounds)
    behind = rounds[newest.number + 1 :] if newest else rounds
    again = tuple(
        (record.number, int(record.state["version"]), history.trained(record.number))
        for record in behind
        if record.state["trained"]
    )
    stored = newest.state["replay"]["policy_version"] if newest else 0
    if rounds:
        log.info(
            "resume key=%s after_round=%d train_again=%d", ctx.job.key[:12], rounds[-1].number, len(again)
        )
        for record in rounds:
            ctx.metrics.log(record.number, **record.state["row"])
    return Start(policy(ctx, rounds), stored if again else state.policy_version, state, again)


def policy(ctx: StageContext, rounds: Sequence[RoundManifest]) -> Path:
    """A directory of the newest weights that `rounds` stored: the input model's where none did."""
    directory = ctx.scratch / f"policy-{len(rounds)}"
    newest = newest_weights(rounds)
    if newest is None:
        return ctx.inputs["model"].download(directory)
    return ctx.store.open_round(newest).download(directory, WEIGHTS) / WEIGHTS


def reader(ctx: StageContext) -> Callable[[RoundManifest, str], pyarrow.Table | None]:
    """Reads the tables of rounds, each once; None where a round has no such table."""
    seen: dict[tuple[int, str], pyarrow.Table | None] = {}

    def table(record: RoundManifest, name: str) -> pyarrow.Table | None:
        if (record.number, name) not in seen:
            artifact = ctx.store.open_round(record)
            there = any(file.path == name for file in artifact.files)
            seen[record.number, name] = artifact.read_table(name) if there else None
        return seen[record.number, name]

    return table
