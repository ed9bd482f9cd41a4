"""A stage's `progress done=… total=… what=…` lines as one Prefect progress artifact per task."""

import logging
import re
import time
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact

log = logging.getLogger(__name__)
LINE = re.compile(r"progress done=(?P<done>\d+) total=(?P<total>\d+) what=(?P<what>.*)")
EVERY_S = 5.0


class Progress:
    """Follows one execution. Prefect hears of it at most every 5 s, and at its end.

    Where its server does not answer there is no bar, one warning, and the stage goes on.
    """

    def __init__(self, node: str, run_id: str) -> None:
        self._key = re.sub(r"[^a-z0-9]+", "-", f"progress-{run_id}-{node}".lower()).strip("-")
        self._node = node
        self._artifact: UUID | None = None
        self._next = time.monotonic() + EVERY_S  # a quick stage needs no bar
        self._warned = False

    def read(self, line: str) -> bool:
        """Whether the line was one of progress; then it has been taken in."""
        found = LINE.match(line)
        if found is None:
            return False
        done, total = int(found["done"]), max(1, int(found["total"]))
        last = done >= total and self._artifact is not None
        if last or time.monotonic() >= self._next:
            percent = 100.0 * min(done, total) / total
            try:
                self._show(percent, f"{self._node}: {done}/{total} {found['what']}")
            except httpx.HTTPError as error:  # Prefect's own are of these
                self._warn(error)
            self._next = time.monotonic() + EVERY_S
        return True

    def _show(self, percent: float, text: str) -> None:
        if self._artifact is None:
            created = create_progress_artifact(percent, key=self._key, description=text)
            self._artifact = created if isinstance(created, UUID) else UUID(str(created))
        else:
            update_progress_artifact(self._artifact, percent, description=text)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            log.warning(
                "node=%s progress is not shown in Prefect: %s", self._node, error or type(error).__name__
            )
        self._warned = True
