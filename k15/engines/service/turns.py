"""Trainer and samplers on the same devices, one after the other (METHOD.md §9).

A turn of the samplers: the trainer's weights are laid out for them, which its ranks do on their devices; all
that it holds goes to host memory; samplers that have imported everything, and waited without touching a
device, build their engines on dummy weights, take the version, roll out and end. Once their processes are
gone the trainer takes its memory back. They end rather than sleep because CUDA graphs, NCCL's buffers and
the driver keep memory otherwise; the next ones import while these sample and the trainer trains.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from k15.engines.fanout import FAULTS
from k15.engines.service import pool
from k15.engines.service.settings import NO_VERSION
from k15.records import Answer, SampleRequest, SampleStats, TensorSpec, Turn, WeightTicket

log = logging.getLogger(__name__)

START_S = 600.0  # for an engine of a large model over several devices
TRANSFER_S = 600.0
TRIES = 2  # of a turn, to have a sampler start


class Replica(pool.Replica, Protocol):
    """A sampler service that waits for its turn."""

    def begin(self, *, deadline_s: float) -> None:
        """Build the engine."""


class Trainer(Protocol):
    """A trainer service that can leave its devices to others."""

    def layout(self) -> list[TensorSpec]:
        """As ports.Trainer.layout."""

    def offload(self) -> None:
        """Move all that is as large as the model to host memory."""

    def onload(self) -> None:
        """Take it back."""


class Turns:
    """ports.Sampler on the devices of `trainer`, whose other calls may come between two of `sample`."""

    replicas: Mapping[str, Replica] = MappingProxyType({})  # nobody between turns: weights come first

    def __init__(
        self,
        trainer: Trainer,
        launch: Callable[[], tuple[str, Replica]],
        replicas: Mapping[str, Replica],
        *,
        version: int,
        capacity: int,
    ) -> None:
        """`replicas` wait for the first turn; `launch` starts one more that waits, by its name.

        `version` is what the trainer holds. `capacity` as SamplerPool's.
        """
        self.version = version
        self.stats = SampleStats()
        self._trainer, self._launch, self._capacity = trainer, launch, capacity
        self._layout = trainer.layout()
        self._num_replicas = len(replicas)
        self._waiting = dict(replicas)
        self._up: dict[str, Replica] = {}
        self._lost: list[str] = []
        self._ticket: WeightTicket | None = None

    def update(self, ticket: WeightTicket, *, deadline_s: float) -> None:  # noqa: ARG002 (nothing is moved)
        """The samplers' next turn serves `ticket`; ValueError where its version is older than the last."""
        if ticket.version < self.version:
            raise ValueError(f"version {ticket.version} of the weights goes back: {self.version} is served")
        self._ticket, self.version = ticket, ticket.version

    def sample(self, requests: Sequence[SampleRequest], *, deadline_s: float) -> Iterator[Answer]:
        """As ports.Sampler.sample, in a turn of its own; the deadline is of the sampling alone.

        A sampler that dies while it samples is lost to the turn as SamplerPool says, and the next turn has
        all of them again. ConnectionError where none starts or none is left.
        """
        seconds: dict[str, float] = {}
        if self._ticket is None:
            raise ValueError("no weights yet: the trainer is to publish a version first")
        with _timed(seconds, "offload"):
            self._trainer.offload()
        try:
            with _timed(seconds, "start"):
                self._start()
            yield from self._sample(requests, self._ticket, seconds, deadline_s=deadline_s)
        finally:
            with _timed(seconds, "end"):
                self._end(self._up)
        with _timed(seconds, "onload"):
            self._trainer.onload()
        self.stats = replace(self.stats, turn=Turn(**seconds))
        spent = " ".join(f"{name}_s={value:.2f}" for name, value in seconds.items())
        log.info("turn version=%d at=over %s", self.version, spent)

    def _sample(
        self,
        requests: Sequence[SampleRequest],
        ticket: WeightTicket,
        seconds: dict[str, float],
        *,
        deadline_s: float,
    ) -> Iterator[Answer]:
        """The answers of those that are up."""
        samplers = pool.SamplerPool(self._up, self._layout, version=NO_VERSION, capacity=self._capacity)
        try:
            with _timed(seconds, "update"):
                samplers.update(ticket, deadline_s=TRANSFER_S)
            log.info("turn version=%d at=sampling replicas=%d", self.version, len(samplers.replicas))
            for answer in samplers.sample(requests, deadline_s=deadline_s):
                self.stats = samplers.stats
                yield answer
        finally:
            samplers.close()
        self.stats = replace(samplers.stats, lost=(*self._lost, *samplers.stats.lost))

    def _start(self) -> None:
        """Bring everyone who waits up, and others in the place of those who fail; then launch the next.

        What they said where none is up in the end, ValueError where one refuses its settings.
        """
        self._lost, said = [], {}
        for _ in range(TRIES):
            said = self._begin()
            self._lost += [f"{name}: {str(error).splitlines()[0]}" for name, error in said.items()]
            missing = self._num_replicas - len(self._up)
            self._waiting = dict(self._launch() for _ in range(missing))
            if not missing:
                break
        if not self._up:
            raise ConnectionError("; ".join(f"{name}: {error}" for name, error in said.items()))
        self._waiting |= dict(self._launch() for _ in range(self._num_replicas - len(self._waiting)))

    def _begin(self) -> dict[str, Exception]:
        """All who wait begin side by side; what those said that failed, which are ended."""
        with ThreadPoolExecutor(max(1, len(self._waiting)), thread_name_prefix="begin") as threads:
            begun = {name: threads.submit(_begun, replica) for name, replica in self._waiting.items()}
        failed: dict[str, Exception] = {}
        for name, future in begun.items():
            error = future.exception()
            if error is None:
                self._up[name] = self._waiting[name]
            elif isinstance(error, FAULTS) and not isinstance(error, ValueError):
                log.warning("replica=%s did not start error=%s", name, error)
                failed[name] = error
            else:
                raise error
        self._end({name: self._waiting[name] for name in failed})
        return failed

    def _end(self, replicas: dict[str, Replica]) -> None:
        """End them, side by side; none is left once this returns."""
        if replicas:
            with ThreadPoolExecutor(len(replicas), thread_name_prefix="end") as threads:
                list(threads.map(lambda replica: replica.end(), replicas.values()))
        replicas.clear()


def _begun(replica: Replica) -> None:
    replica.wait()
    replica.begin(deadline_s=START_S)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = time.perf_counter() - started
