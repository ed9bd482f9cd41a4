"""A supervised stage's step checkpoints: the trainer's state, the loop's, and the metrics so far."""

import logging
import shutil

from k15.engines.megatron.trainer import MegatronTrainer
from k15.loops.supervised import Fit
from k15.stage import StageContext

METRICS = "metrics.jsonl"
TRAINER = "trainer"

log = logging.getLogger("k15.stage")


class Checkpoints:
    """Saves and restores one stage's run."""

    def __init__(self, ctx: StageContext, trainer: MegatronTrainer) -> None:
        self._ctx = ctx
        self._trainer = trainer

    def restore(self) -> Fit:
        """Bring trainer and metrics to the last checkpoint; how far the run is (a new one: at its start).

        ValueError where a checkpoint is damaged or not of this run; it says how to go on without it.
        """
        record = self._ctx.steps.last()
        if record is None:
            return Fit()
        folder = self._ctx.scratch / "checkpoint"
        try:
            done = Fit.decoded(record.state)
            self._ctx.steps.download(record, folder)
            self._trainer.load_state(folder / TRAINER)
            self._ctx.metrics.restore((folder / METRICS).read_bytes())
        except ValueError as error:
            uri = self._ctx.steps.uri(record)
            raise ValueError(f"{error}; to go on without this checkpoint, delete {uri}") from None
        shutil.rmtree(folder)
        log.info("resumed step=%d epoch=%d", done.steps, self._ctx.lease.epoch)
        return done

    def save(self, done: Fit) -> None:
        """Commit the state after `done.steps` updates."""
        folder = self._ctx.scratch / "checkpoint"
        (folder / TRAINER).mkdir(parents=True)
        self._trainer.save_state(folder / TRAINER)
        (folder / METRICS).write_bytes(self._ctx.metrics.encode())
        self._ctx.steps.save(done.steps, folder, done.encoded())
        shutil.rmtree(folder)
