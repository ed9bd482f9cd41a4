"""Committing RL rounds: what a round made leaves in the background while the next one rolls out."""

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from k15.loops.replay import ReplayState
from k15.loops.rl import Clock, Row
from k15.ports import Trainer
from k15.stage import StageContext
from k15.store.attempt import Attempt
from k15.store.manifest import RoundManifest

log = logging.getLogger("stages.rl")
WEIGHTS = "model"
COMPUTE = ("rollout_s", "reward_s", "train_s")


class RoundCommit:
    """Commits rounds in order; weights, replay state, figures and examples become visible together.

    A round is committed before the next one's commit begins, and all are when the block ends in any way.
    A process killed in between loses the round that was on its way and the one after it, never half of one.
    A round without an update carries no weights: they are those of the newest round before it that does.
    """

    def __init__(self, ctx: StageContext, trainer: Trainer, rounds: int) -> None:
        self._ctx, self._trainer, self._rounds = ctx, trainer, rounds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._pending: Future[Row] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._settle()
        finally:
            self._thread.shutdown()

    def __call__(self, state: ReplayState, row: Row, examples: list[dict[str, Any]], clock: Clock) -> None:
        """Take over a finished round. Once this returns, the trainer's weights may change."""
        number = int(row["round"])
        with clock("commit"):
            self._settle()
            weights = self._save(number) if row["num_updates"] else None
            upload = self._thread.submit(self._upload, weights)
            if number + 1 == self._rounds:
                upload.result()  # no rollout follows that it could hide behind
        row = measured(row, clock)
        self._pending = self._thread.submit(self._commit, upload, state, row, examples)
        self._ctx.progress(number + 1, self._rounds, "rounds")

    def _settle(self) -> None:
        """Wait until the round taken over last is committed, and say so."""
        pending, self._pending = self._pending, None
        if pending is not None:
            row = pending.result()
            self._ctx.metrics.log(int(row["round"]), **row)
            announce(row)

    def _save(self, number: int) -> Path:
        directory = self._ctx.scratch / f"round-{number}"
        self._trainer.save(directory)
        return directory

    def _upload(self, weights: Path | None) -> Attempt:
        attempt = self._ctx.store.begin(self._ctx.job.key)
        if weights is not None:
            attempt.add_directory(WEIGHTS, weights)
            shutil.rmtree(weights)
        return attempt

    def _commit(
        self, upload: Future[Attempt], state: ReplayState, row: Row, examples: list[dict[str, Any]]
    ) -> Row:
        ctx, number = self._ctx, int(row["round"])
        content = {"replay": state.to_json(), "row": row, "examples": examples}
        if not ctx.store.commit_round(ctx.job.key, number, upload.result(), content):
            raise RuntimeError(f"round {number} was committed by another writer; this one lost its lease")
        return row


def newest_weights(rounds: Sequence[RoundManifest]) -> RoundManifest | None:
    """The last of `rounds` that carries weights; None where no round made an update."""
    return next((r for r in reversed(rounds) if any(f.path.startswith(f"{WEIGHTS}/") for f in r.files)), None)


def measured(row: Row, clock: Clock) -> Row:
    """The round's figures with its seconds; what is neither rollout, reward nor training is orchestration."""
    row = row | clock.read()
    return row | {"orchestration_s": row["wall_s"] - sum(row.get(name, 0.0) for name in COMPUTE)}


def announce(row: Row) -> None:
    """One line in the log."""
    log.info(
        "round=%d pass_rate=%.3f tokens=%.1f reward=%.3f wall_s=%.2f orchestration_s=%.2f mismatch=%.1e",
        *(row[name] for name in ("round", "pass_rate", "tokens_mean", "reward", "wall_s", "orchestration_s")),
        row["mismatch_mean"],
    )
