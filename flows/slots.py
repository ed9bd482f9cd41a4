"""Weighted core slots: independent stages share the machine within what they declare."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """The run is being cancelled; nothing new may start."""


class CoreSlots:
    """At most `capacity` cores are held at once; first come, first served: wide stages get their turn."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a machine has at least 1 core, got {capacity}")
        self.capacity = capacity
        self._free = capacity
        self._stopped = False
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, cores: int) -> Iterator[None]:
        """Hold `cores` (the whole machine where more are asked for); Stopped where the run ends meanwhile."""
        wanted = min(cores, self.capacity)
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            self._changed.wait_for(
                lambda: self._stopped or (self._queue[0] is ticket and self._free >= wanted)
            )
            self._queue.remove(ticket)
            self._changed.notify_all()
            if self._stopped:
                raise Stopped
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()

    def stop(self) -> None:
        """Let nobody in any more; who waits gets Stopped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
