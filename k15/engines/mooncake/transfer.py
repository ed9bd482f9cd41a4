"""Weights between hosts over Mooncake's TransferEngine: one-sided reads of the trainer's registered memory.

Whoever has taken a version can be read from in turn, so that the trainer need not serve every replica
(k15.engines.fanout). Mooncake asks nobody who may read: its ports belong into the hosts' private network.
"""

import mmap
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from k15.engines import pinned
from k15.engines.mooncake.engine import Registered
from k15.engines.weights import (
    HEADER_BYTES,
    Named,
    Seconds,
    Slot,
    Staging,
    buckets,
    header_bytes,
    layout_bytes,
    refuse_unlike,
    torn,
)
from k15.records import TensorSpec, WeightSource, WeightTicket


class MooncakeSender:
    """The trainer's end: one registered slot. Implements ports.WeightSender."""

    def __init__(self, layout: Sequence[TensorSpec], *, transport: str, host: str, timeout_s: int) -> None:
        memory = mmap.mmap(-1, Slot.size(layout_bytes(layout)))  # page-aligned
        self._buffer = memoryview(memory)
        self._registered = Registered(self._buffer, transport=transport, host=host, timeout_s=timeout_s)
        pinned.pin(self._buffer)
        self._staging = Staging(self._buffer, layout, self._registered.source)

    @property
    def seconds(self) -> Seconds:
        """Of the last version."""
        return self._staging.seconds

    def send(self, tensors: Named, version: int, *, deadline_s: float) -> WeightTicket:
        """Lay one version into the registered memory, as Staging.write."""
        if not self._registered.open:
            raise ConnectionError("the weight channel was closed")
        return self._staging.write(tensors, version, deadline_s=deadline_s)

    def close(self) -> None:
        """Take the buffer back from the network."""
        if self._registered.open:
            pinned.unpin(self._buffer)
            self._registered.close()


class MooncakeReceiver:
    """The sampler's end: one registered slot of its own. Implements ports.WeightReceiver."""

    def __init__(self, payload_bytes: int, *, transport: str, host: str, timeout_s: int) -> None:
        size = Slot.size(payload_bytes)
        self._file = os.memfd_create("k15-weights", os.MFD_CLOEXEC)
        os.posix_fallocate(self._file, 0, size)
        self._buffer = memoryview(mmap.mmap(self._file, size))
        self._slot = Slot(self._buffer, payload_bytes)
        self._registered = Registered(self._buffer, transport=transport, host=host, timeout_s=timeout_s)
        self.seconds = Seconds()

    @property
    def path(self) -> str:
        """The file behind this end's own slot."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def source(self) -> WeightSource:
        """Where others may take what this end has taken; another place after a take that failed."""
        return self._registered.source

    @contextmanager
    def take(self, ticket: WeightTicket, *, deadline_s: float) -> Iterator[memoryview]:
        """The verified bytes of a version, read into this end's own slot.

        ConnectionError: the source is dead, or holds something else; TimeoutError: it is silent, or the
        deadline has passed (kept to within one bucket or the transfer timeout). Both name the source.
        """
        started = time.monotonic()
        self._fetch(ticket, started + deadline_s)
        fetched = time.monotonic()
        self._slot.verify(ticket)
        self.seconds = Seconds(fetched - started, time.monotonic() - fetched)
        if time.monotonic() > started + deadline_s:
            raise TimeoutError(f"verifying version {ticket.version} passed its deadline of {deadline_s} s")
        self._slot.seal(ticket)
        yield self._slot.payload

    def close(self) -> None:
        """Take the buffer back from the network."""
        self._registered.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _fetch(self, ticket: WeightTicket, end_s: float) -> None:
        """Read header and payload; the slot holds nothing until it is sealed again."""
        source, transport = ticket.source, self._registered.source.transport
        refuse_unlike(ticket, transport=transport, payload_bytes=len(self._slot.payload))
        self._slot.invalidate()
        self._registered.settle()
        expected = header_bytes(ticket)
        self._registered.read(source, 0, len(expected), end_s)
        found = bytes(self._buffer[: len(expected)])
        self._slot.invalidate()
        if found != expected:
            raise torn(ticket)
        for offset, size in buckets(ticket.num_bytes):
            self._registered.read(source, HEADER_BYTES + offset, size, end_s)
