"""Who drives a sampler that outlives its callers: one session at a time, until it falls silent."""

import threading
import time

HELD_S = 60.0  # without a word from its holder: then another may take it


class Holder:
    """The session that opened the weight channel last; calls of others are refused."""

    def __init__(self, *, held_s: float = HELD_S) -> None:
        self._held_s = held_s
        self._lock = threading.Lock()
        self._session, self._heard = "", 0.0

    def take(self, session: str) -> None:
        """From now on `session` drives; ConnectionError where another one does and was heard of lately."""
        with self._lock:
            silent_s = time.monotonic() - self._heard
            if self._session not in ("", session) and silent_s < self._held_s:
                raise ConnectionError(
                    f"another run drives this sampler (heard of {silent_s:.0f} s ago); give each run samplers"
                    f" of its own, or wait {self._held_s:.0f} s after the other one's end"
                )
            self._session, self._heard = session, time.monotonic()

    def check(self, session: str) -> None:
        """ConnectionError where another session has taken the sampler over."""
        with self._lock:
            if self._session not in ("", session):
                raise ConnectionError("another run has taken this sampler over")
        self.heard(session)

    def release(self, session: str) -> None:
        """It drives no more: another may at once."""
        with self._lock:
            if session == self._session:
                self._session = ""

    def heard(self, session: str) -> None:
        """A sign of life."""
        with self._lock:
            if session == self._session:
                self._heard = time.monotonic()
