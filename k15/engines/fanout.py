"""One version of the weights to every replica, taken from the trainer once.

In shared memory all replicas of a host map the one segment. Over a network the trainer serves the first
replica; from then on every replica that has the version serves the next one, so that what has it doubles with
each wave: 1 + ⌈log₂ N⌉ waves for N replicas, and one copy out of the trainer's network card.
"""

import logging
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Protocol

from k15.records import WeightSource, WeightTicket

log = logging.getLogger(__name__)

FAULTS = (ValueError, OSError, RuntimeError)  # of a replica or its peer; anything else is ours


class Replica(Protocol):
    """What `deliver` asks of a sampler."""

    copy: WeightSource | None  # where others may take what it has taken

    def update(self, ticket: WeightTicket, *, deadline_s: float) -> None:
        """As ports.Sampler.update."""


def deliver(
    ticket: WeightTicket, replicas: Mapping[str, Replica], *, deadline_s: float
) -> dict[str, Exception]:
    """Update every replica; returns those that failed, by name, each with what it said.

    One that could not take its weights from another replica is given a second try with the trainer itself,
    so a replica that dies while it serves costs no other one the version. No step begins after the deadline.
    """
    end_s = time.monotonic() + deadline_s
    delivery = _Delivery(ticket, replicas)
    with ThreadPoolExecutor(max(1, len(replicas)), thread_name_prefix="weights") as threads:
        while delivery.under_way:
            for name, source in delivery.next_steps():
                left_s = end_s - time.monotonic()
                if left_s <= 0:
                    late = f"its turn for version {ticket.version} did not come within {deadline_s} s"
                    delivery.ended(name, source, TimeoutError(late))
                    continue
                step = replace(ticket, source=source)
                future = threads.submit(replicas[name].update, step, deadline_s=left_s)
                delivery.running[future] = name, source
            for future in wait(delivery.running, return_when=FIRST_COMPLETED).done:
                name, source = delivery.running.pop(future)
                delivery.ended(name, source, future.exception())
    for name, error in delivery.failed.items():
        log.warning("weights version=%d replica=%s failed error=%s", ticket.version, name, error)
    return delivery.failed


class _Delivery:
    """Who waits, who serves, who failed."""

    def __init__(self, ticket: WeightTicket, replicas: Mapping[str, Replica]) -> None:
        self.failed: dict[str, Exception] = {}
        self.running: dict[Future[None], tuple[str, WeightSource]] = {}
        self._replicas, self._trainer = replicas, ticket.source
        self._shared = ticket.source.transport == "shared_memory"
        self._waiting = deque(replicas)
        self._second_try: deque[str] = deque()
        self._idle: list[WeightSource] = []

    @property
    def under_way(self) -> bool:
        """Whether any replica has neither the version nor failed."""
        return bool(self._waiting or self._second_try or self.running)

    def next_steps(self) -> list[tuple[str, WeightSource]]:
        """Replicas that can begin now, and where each takes the version."""
        if self._shared:
            steps = [(name, self._trainer) for name in self._waiting]
            self._waiting.clear()
            return steps
        steps = []
        if all(source != self._trainer for _, source in self.running.values()):
            if self._second_try:
                steps.append((self._second_try.popleft(), self._trainer))
            elif self._waiting and not self._idle and not self.running:
                steps.append((self._waiting.popleft(), self._trainer))
        while self._waiting and self._idle:
            steps.append((self._waiting.popleft(), self._idle.pop()))
        return steps

    def ended(self, name: str, source: WeightSource, error: BaseException | None) -> None:
        """A replica's step is over. A source that did not serve it is not asked again."""
        if error is None:
            copy = self._replicas[name].copy
            self._idle += [one for one in (source, copy) if one is not None and one != self._trainer]
        elif not isinstance(error, FAULTS):
            raise error
        elif source != self._trainer and not isinstance(error, ValueError):
            self._second_try.append(name)
        else:
            self.failed[name] = error
