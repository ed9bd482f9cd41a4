"""SamplerPool: ports.Sampler over several replicas of one policy, any of which may die, hang, or join.

A response depends on the weights, on its tokens so far and on its seed, not on who samples it: where a
replica is lost, others sample what it still owed, and the same tokens come out. It is lost where it dies,
faults, or answers nothing for `hung_s`; it is named, and one of ours is ended and replaced. A replacement,
and whoever else is found, joins with the next version of the weights, which it has verified before it samples
a token.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from k15.engines.fanout import FAULTS, deliver
from k15.engines.service.phase import Phase
from k15.engines.service.watch import Watch
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
MOST_REPLACEMENTS, REPLACEMENTS_S = 16, 3600.0  # what dies more often than that is no accident
LOOK_EVERY_S = 1.0  # for a first replica
SAY_EVERY_S = 15.0


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

    def end(self, why: str = "") -> None:
        """End it, however it stands; calls under way break off."""


class SamplerPool:
    """ports.Sampler over `replicas`, which all serve `version` of the policy already, and those found."""

    def __init__(
        self,
        replicas: Mapping[str, Replica],
        layout: Sequence[TensorSpec],
        *,
        version: int,
        capacity: int,
        replacement: Callable[[], tuple[str, Replica]] | None = None,
        found: Callable[[], Mapping[str, Callable[[], Replica]]] = dict,
        hung_s: float = HUNG_S,
    ) -> None:
        """`capacity`: responses a replica samples at the same time. `replacement` launches one, by its name.

        `found`: the samplers that others started, by address, each with what connects to it; asked again and
        again. Without `replicas` the pool samples once `update` has found one. ValueError where a replica
        serves another model.
        """
        self.version = version
        self.stats = SampleStats()
        self.replicas = dict(replicas)
        self.hung_s, self.capacity = hung_s, capacity
        self._layout, self._replacement, self._found = list(layout), replacement, found
        self._lost: list[str] = []  # since the last call of `sample` ended: who, and why
        self._joining: dict[str, tuple[Replica, Future[None]]] = {}
        self._refusals: dict[str, str] = {}  # why one last did not join
        self._replaceable = set(replicas)
        self._replaced: list[float] = []  # when
        self._phase: Phase | None = None
        self._watch = Watch(hung_s, self._silent)
        for name, replica in self.replicas.items():
            replica.open_channel(self._layout)
            self._watch.add(name, replica)

    def sample(self, requests: Sequence[SampleRequest], *, deadline_s: float) -> Iterator[Answer]:
        """As ports.Sampler.sample; ConnectionError once no replica is left, ValueError as a replica says."""
        self._look()
        self.stats = SampleStats()
        phase = Phase(requests, self.replicas, self.capacity, deadline_s=deadline_s, version=self.version)
        self._phase = phase
        try:
            for answer in phase.answers(self.lose):
                if self._lost:
                    self.stats = phase.stats(lost=self._lost)
                yield answer
        finally:
            self._phase = None
            phase.close()
        self.stats = phase.stats(lost=self._lost)
        self._lost = []

    def update(self, ticket: WeightTicket, *, deadline_s: float) -> None:
        """As ports.Sampler.update, on every replica; those that wait to join take part.

        A replica that fails is lost. ConnectionError, or ValueError where all of them refuse the ticket, once
        none is left. TimeoutError where none was found.
        """
        end_s = time.monotonic() + deadline_s
        self._admit(end_s)
        failed = deliver(ticket, self.replicas, deadline_s=end_s - time.monotonic())
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
        """Go on without a replica, and have another one started in the place of one of ours."""
        log.warning("replica=%s lost left=%d error=%s", name, len(self.replicas) - 1, error)
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        self._lost.append(f"{name}: {said}")
        self._watch.remove(name)
        threading.Thread(target=self.replicas.pop(name).end, args=(said,), daemon=True).start()
        if self.replicas:
            self._replace(name)

    def close(self) -> None:
        """Watch nothing any more, and leave those found to others; ours are their owner's to end."""
        self._watch.close()
        for name in self.replicas.keys() - self._replaceable:
            self.replicas[name].end("the stage ends")

    def _replace(self, name: str) -> None:
        """Have another one of ours started in the place of `name`, if that was ours."""
        now = time.monotonic()
        self._replaced = [at for at in self._replaced if now - at < REPLACEMENTS_S]
        if self._replacement is None or name not in self._replaceable:
            return
        if len(self._replaced) >= MOST_REPLACEMENTS:
            log.error("replica=%s is not replaced: %d others were in the last hour", name, MOST_REPLACEMENTS)
            return
        self._replaced.append(now)
        other, replica = self._replacement()
        self._replaceable.add(other)
        self._joining[other] = replica, started(replica)

    def _silent(self, name: str, error: Exception) -> None:
        if (phase := self._phase) is not None:
            phase.silent(name, error)

    def _look(self) -> None:
        """Connect to samplers not seen before, or seen again."""
        for name, connect in self._found().items():
            if name not in self.replicas and name not in self._joining:
                replica = connect()
                self._joining[name] = replica, started(replica)

    def _admit(self, end_s: float) -> None:
        """Take in those that wait to join and are up; the others may come to the next version.

        Where there is no replica at all, wait for one until `end_s`; TimeoutError then.
        """
        begun = said = time.monotonic()
        self._take_in()
        while not self.replicas:
            now = time.monotonic()
            if now > end_s:
                raise TimeoutError(
                    f"no sampler was found in {now - begun:.0f} s; start one (`python -m stages.replica`)"
                    ", or look at what they log"
                )
            if now - said > SAY_EVERY_S:
                said = now
                log.info("waiting_for_samplers_s=%.0f", now - begun)
            self._look()
            time.sleep(LOOK_EVERY_S)
            self._take_in()

    def _take_in(self) -> None:
        for name in [name for name, (_, start) in self._joining.items() if start.done()]:
            replica, start = self._joining.pop(name)
            try:
                start.result()
                replica.open_channel(self._layout)
            except FAULTS as error:
                if self._refusals.get(name) != str(error):  # one that is listed is tried with every version
                    log.warning("replica=%s did not join error=%s", name, error)
                self._refusals[name] = str(error)
                replica.end(str(error))
                self._replace(name)
                continue
            self.replicas[name] = replica
            self._watch.add(name, replica)
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
