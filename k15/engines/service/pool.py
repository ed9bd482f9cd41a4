"""SamplerPool: ports.Sampler over several replicas of one policy, any of which may die, hang, or join.

A response depends on the weights, on its tokens so far and on its seed, not on who samples it: where a
replica is lost, others sample what it still owed, and the same tokens come out. It is lost where it dies,
faults, or answers nothing for `hung_s`; it is named, ended and replaced. The replacement joins with the next
version of the weights, which it has verified before it samples a token.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from k15.engines.fanout import FAULTS, deliver
from k15.engines.service.phase import Phase
from k15.records import (
    Answer,
    SamplePart,
    SampleRequest,
    SampleStats,
    TensorSpec,
    WeightSource,
    WeightTicket,
)

log = logging.getLogger(__name__)

HUNG_S = 30.0
MOST_REPLACEMENTS = 16  # in a pool's life: what dies that often is not an accident


class Replica(Protocol):
    """A sampler service as the pool drives it."""

    copy: WeightSource | None

    def parts(self, requests: Sequence[SampleRequest], *, deadline_s: float) -> Iterator[SamplePart]:
        """ports.Sampler.sample by parts, the last one with what the call did."""

    def open_channel(self, layout: Sequence[TensorSpec]) -> None:
        """Make ready for weights in `layout`; ValueError where that is not this sampler's model."""

    def update(self, ticket: WeightTicket, *, deadline_s: float) -> None:
        """As ports.Sampler.update."""

    def wait(self) -> None:
        """Return once it has started."""

    def ping(self, *, deadline_s: float) -> None:
        """Return once it answers; ConnectionError or TimeoutError where it does not."""

    def end(self) -> None:
        """End it, however it stands."""


class SamplerPool:
    """ports.Sampler over `replicas`, which all serve `version` of the policy already."""

    def __init__(
        self,
        replicas: Mapping[str, Replica],
        layout: Sequence[TensorSpec],
        *,
        version: int,
        capacity: int,
        replacement: Callable[[], tuple[str, Replica]] | None = None,
        hung_s: float = HUNG_S,
    ) -> None:
        """`capacity`: responses a replica samples at the same time. `replacement` launches one, by its name.

        ValueError where a replica serves another model.
        """
        self.version = version
        self.stats = SampleStats()
        self.replicas = dict(replicas)
        self.hung_s, self.capacity = hung_s, capacity
        self._layout, self._replacement = list(layout), replacement
        self._lost: list[str] = []  # since the last call of `sample` ended: who, and why
        self._joining: dict[str, tuple[Replica, Future[None]]] = {}
        self._num_replacements = 0
        for replica in self.replicas.values():
            replica.open_channel(self._layout)

    def sample(self, requests: Sequence[SampleRequest], *, deadline_s: float) -> Iterator[Answer]:
        """As ports.Sampler.sample; ConnectionError once no replica is left, ValueError as a replica says."""
        phase = Phase(requests, self.replicas, self.capacity, deadline_s=deadline_s, version=self.version)
        with phase.watched(self.hung_s):
            yield from phase.answers(self.lose)
        self.stats = phase.stats(lost=self._lost)
        self._lost = []

    def update(self, ticket: WeightTicket, *, deadline_s: float) -> None:
        """As ports.Sampler.update, on every replica; those that wait to join take part.

        A replica that fails is lost. ConnectionError, or ValueError where all of them refuse the ticket, once
        none is left.
        """
        self._admit()
        failed = deliver(ticket, self.replicas, deadline_s=deadline_s)
        if len(failed) == len(self.replicas):
            refused = all(isinstance(error, ValueError) for error in failed.values())
            text = "; ".join(f"{name}: {error}" for name, error in failed.items())
            raise (ValueError if refused else ConnectionError)(
                f"no replica took version {ticket.version}: {text}"
            )
        for name, error in failed.items():
            self.lose(name, error)
        self.version = ticket.version

    def lose(self, name: str, error: BaseException) -> None:
        """Go on without a replica, and have another one started in its place."""
        log.warning("replica=%s lost left=%d error=%s", name, len(self.replicas) - 1, error)
        self._lost.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
        threading.Thread(target=self.replicas.pop(name).end, daemon=True).start()
        if self._replacement and self.replicas and self._num_replacements < MOST_REPLACEMENTS:
            self._num_replacements += 1
            other, replica = self._replacement()
            self._joining[other] = replica, started(replica)

    def _admit(self) -> None:
        """Take in the replacements that are up; the others may come to the next version."""
        for name in [name for name, (_, start) in self._joining.items() if start.done()]:
            replica, start = self._joining.pop(name)
            try:
                start.result()
                replica.open_channel(self._layout)
            except FAULTS as error:
                log.warning("replica=%s did not join error=%s", name, error)
                replica.end()
                continue
            self.replicas[name] = replica
            log.info("replica=%s joins replicas=%d", name, len(self.replicas))


def started(replica: Replica) -> "Future[None]":
    """Done once the replica has started, or has not."""
    start: Future[None] = Future()

    def wait() -> None:
        try:
            replica.wait()
        except FAULTS as error:
            start.set_exception(error)
        else:
            start.set_result(None)

    threading.Thread(target=wait, daemon=True).start()
    return start
