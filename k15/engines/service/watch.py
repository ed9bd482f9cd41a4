"""Whether replicas live: each is asked every two seconds, for as long as a pool has it."""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

PING_EVERY_S = 2.0


class Replica(Protocol):
    """What is watched."""

    def ping(self, *, deadline_s: float) -> None:
        """Return once it answers; ConnectionError or TimeoutError where it does not."""

    def end(self, why: str = "") -> None:
        """End it; calls under way break off."""


class Watch:
    """Ends what answers nothing for `hung_s`, so that no call waits for it: neither samples nor weights."""

    def __init__(self, hung_s: float, silent: Callable[[str, Exception], None]) -> None:
        """`silent` hears of a replica first, by name and with the error; any thread may call it."""
        self._hung_s, self._silent = hung_s, silent
        self._ends: dict[str, threading.Event] = {}

    def add(self, name: str, replica: Replica) -> None:
        """Watch it from now on."""
        end = self._ends[name] = threading.Event()
        threading.Thread(
            target=self._run, args=(name, replica, end), name=f"watch-{name}", daemon=True
        ).start()

    def remove(self, name: str) -> None:
        """No longer."""
        self._ends.pop(name).set()

    def close(self) -> None:
        """Watch nothing any more."""
        for name in list(self._ends):
            self.remove(name)

    def _run(self, name: str, replica: Replica, end: threading.Event) -> None:
        while not end.wait(PING_EVERY_S):
            try:
                replica.ping(deadline_s=self._hung_s)
            except (ConnectionError, TimeoutError) as error:
                if not end.is_set():
                    self._silent(name, error)
                    replica.end(str(error))
                return
