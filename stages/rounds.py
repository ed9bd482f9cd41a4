"""Committing RL rounds: what a round made leaves in the background while the next one rolls out."""

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from k15.loops.clock import Clock
from k15.loops.figures import timed
from k15.loops.history import Played, Row
from k15.ports import Trainer
from k15.stage import StageContext
from k15.store.attempt import Attempt
from k15.store.journal import Journals
from k15.store.manifest import RoundManifest

log = logging.getLogger("stages.rl")
WEIGHTS = "model"


class RoundCommit:
    """Commits rounds in order; tokens, verdicts, state, figures (and weights) become visible together.

    A round is committed before the next one's commit begins, and all are when the block ends in any way.
    A process killed in between loses the round that was on its way and the one after it, never half of one;
    what was sampled for them is in their journals. Weights go along every `every` rounds and with the last;
    those in between follow from the stored groups by training again.
    """

    def __init__(
        self,
        ctx: StageContext,
        trainer: Trainer,
        journals: Journals,
        *,
        rounds: int,
        every: int = 1,
        unsaved: bool = False,
    ) -> None:
        """`unsaved`: the trainer's weights are already past the last stored ones."""
        self._ctx, self._trainer, self._journals = ctx, trainer, journals
        self._rounds, self._every, self._unsaved = rounds, every, unsaved
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

    def __call__(self, played: Played, clock: Clock) -> None:
        """Take over a finished round. Once this returns, the trainer's weights may change."""
        with clock("commit"):
            self._settle()
            self._unsaved |= played.updated
            due = played.last or (played.number + 1) % self._every == 0
            weights = self._save(played.number) if self._unsaved and due else None
            upload = self._thread.submit(self._upload, played, weights)
            if played.last:
                upload.result()  # no rollout follows that it could hide behind
        row = timed(played.row, clock.read())
        self._pending = self._thread.submit(self._commit, upload, played, row)
        self._ctx.progress(self._rounds if played.last else played.number + 1, self._rounds, "rounds")

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
        self._unsaved = False
        return directory

    def _upload(self, played: Played, weights: Path | None) -> Attempt:
        attempt = self._ctx.store.begin(self._ctx.job.key)
        for name, table in played.tables().items():
            attempt.write_table(name, table)
        if weights is not None:
            attempt.add_directory(WEIGHTS, weights)
            shutil.rmtree(weights)
        return attempt

    def _commit(self, upload: Future[Attempt], played: Played, row: Row) -> Row:
        ctx, number = self._ctx, played.number
        content = {**played.state(), "row": row}
        if not ctx.store.commit_round(ctx.job.key, number, upload.result(), content):
            self._journals.forget(number)
            raise RuntimeError(
                f"round {number} was committed late by a process of this stage that had lost its lease; a "
                f"rerun continues after that round"
            )
        log.debug("round=%d at=committed", number)
        self._journals.clear(number)
        return row


def newest_weights(rounds: Sequence[RoundManifest]) -> RoundManifest | None:
    """The last of `rounds` that carries weights; None where none does."""
    return next((r for r in reversed(rounds) if any(f.path.startswith(f"{WEIGHTS}/") for f in r.files)), None)


def announce(row: Row) -> None:
    """One line in the log."""
    log.info(
        "round=%d pass_rate=%.3f tokens=%.1f reward=%.3f wall_s=%.2f orchestration_s=%.2f mismatch=%.1e",
        *(row[name] for name in ("round", "pass_rate", "tokens_mean", "reward", "wall_s", "orchestration_s")),
        row["mismatch_mean"],
    )
