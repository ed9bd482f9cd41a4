"""What a stage's body works with: inputs, output, metrics, progress, and the wish that it should stop."""

import json
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from k15.recipes.stage import StageRecipe
from k15.stage.watchdog import end_with_children
from k15.store.artifact import Artifact, Attempt, Store
from k15.store.job import Job
from k15.store.lease import Lease
from k15.store.mirror import RunMirror
from k15.store.steps import Steps

STOP_GRACE_S = 15.0  # from SIGTERM until a stage that did not end by itself is ended
STOPPED = 1  # exit code
PROGRESS_EVERY_S = 1.0


class StageStopped(Exception):
    """SIGTERM came before the stage was done; nothing half done counts, running again goes on."""

    def __init__(
        self, message: str = "stopped by SIGTERM before the stage was done; run it again to go on"
    ) -> None:
        super().__init__(message)


class MetricLog:
    """Metrics by step: kept for metrics.jsonl, and mirrored live in the background."""

    def __init__(self, mirror: RunMirror) -> None:
        self.rows: list[dict[str, float]] = []
        self._mirror = mirror

    def log(self, step: int, **values: float) -> None:
        """One row; returns at once."""
        plain = {name: float(value) for name, value in values.items()}
        self.rows.append({"step": step, **plain})
        self._mirror.log(step, plain)

    def restore(self, data: bytes) -> None:
        """Take the rows that an earlier process of this stage had encoded, as if logged here."""
        for line in data.splitlines():
            row = {name: float("nan") if value is None else value for name, value in json.loads(line).items()}
            self.log(int(row.pop("step")), **row)

    def encode(self) -> bytes:
        """JSON lines; a value that is not finite becomes null."""
        return b"".join(json.dumps(finite(row)).encode() + b"\n" for row in self.rows)


class StopSignal:
    """SIGTERM as a flag; a stage that does not end by itself within the grace is ended with its children."""

    def __init__(self) -> None:
        self._flag = threading.Event()
        signal.signal(signal.SIGTERM, self._on_signal)

    def is_set(self) -> bool:
        """Whether SIGTERM came."""
        return self._flag.is_set()

    def wait(self, seconds: float) -> None:
        """Sleep; StageStopped where SIGTERM came."""
        if self._flag.wait(seconds):
            raise StageStopped

    def _on_signal(self, number: int, frame: object) -> None:  # noqa: ARG002 (the signature of a handler)
        if not self._flag.is_set():
            self._flag.set()
            timer = threading.Timer(STOP_GRACE_S, end_with_children, (STOPPED,))
            timer.daemon = True
            timer.start()


@dataclass
class StageContext:
    """What a stage's body works with: results go to `out`, numbers to `summary`; `scratch` is deleted.

    `licenses` are for what the body generates, by what generates it; those of raw inputs are the job's.
    """

    job: Job
    recipe: StageRecipe
    inputs: dict[str, Artifact]
    store: Store
    out: Attempt
    scratch: Path
    lease: Lease
    metrics: MetricLog
    stop: StopSignal
    summary: dict[str, float] = field(default_factory=dict)
    licenses: dict[str, str] = field(default_factory=dict)
    _last_progress: float = 0.0

    @property
    def steps(self) -> Steps:
        """This stage's step checkpoints; they are removed when it is done."""
        return Steps(self.store, self.job.key)

    def progress(self, done: int, total: int, what: str) -> None:
        """`show`, and StageStopped after SIGTERM."""
        self.show(done, total, what)
        if self.stop.is_set() and done < total:
            raise StageStopped

    def show(self, done: int, total: int, what: str) -> None:
        """Print `progress done=… total=… what=…`, at most once a second."""
        now = time.monotonic()
        if done >= total or now - self._last_progress >= PROGRESS_EVERY_S:
            self._last_progress = now
            sys.stdout.write(f"progress done={done} total={total} what={what}\n")
            sys.stdout.flush()

    def stopping(self) -> bool:
        """Whether SIGTERM came: end the round at hand if that is quick, then raise StageStopped."""
        return self.stop.is_set()


def finite(row: dict[str, float]) -> dict[str, float | None]:
    """A row of numbers as JSON can hold it: None for NaN and infinities."""
    return {name: value if abs(value) < float("inf") else None for name, value in row.items()}
