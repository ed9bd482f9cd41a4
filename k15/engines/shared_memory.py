"""Weights between processes of one host: one file under /dev/shm that every sampler of the host reads.

The trainer owns the file and holds a lock on it for as long as it lives, so whoever can take the lock knows
that the owner is dead and removes the file. (`multiprocessing.shared_memory` is no choice here: its resource
tracker unlinks the segment when any process that merely read it dies.)
"""

import fcntl
import logging
import mmap
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from k15.engines import pinned
from k15.engines.weights import Named, Seconds, Slot, Staging, layout_bytes, refuse_unlike, torn
from k15.records import TensorSpec, WeightSource, WeightTicket

FOLDER = Path("/dev/shm")
PREFIX = "k15-weights-"
NAME = re.compile(rf"{PREFIX}[0-9a-f]{{16}}")

log = logging.getLogger(__name__)


def sweep(folder: Path = FOLDER) -> list[str]:
    """Remove the files of dead owners; returns their names."""
    removed = []
    for path in folder.glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:  # another sweep was faster
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed.append(path.name)
        except BlockingIOError:  # its owner lives
            continue
        finally:
            os.close(descriptor)
    return removed


class SharedMemorySender:
    """The trainer's end. Implements ports.WeightSender."""

    def __init__(self, layout: Sequence[TensorSpec], *, folder: Path = FOLDER) -> None:
        sweep(folder)
        self._path, self._descriptor = _create(folder, Slot.size(layout_bytes(layout)))
        memory = mmap.mmap(self._descriptor, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        self._buffer = memoryview(memory)
        pinned.pin(self._buffer)
        self._staging = Staging(self._buffer, layout, WeightSource("shared_memory", self._path.name))

    @property
    def seconds(self) -> Seconds:
        """Of the last version."""
        return self._staging.seconds

    def send(self, tensors: Named, version: int, *, deadline_s: float) -> WeightTicket:
        """Write one version, as Staging.write; ConnectionError where the file was removed."""
        if self._descriptor < 0 or not self._path.exists():
            raise ConnectionError(f"{self._path}: gone; the weight channel was closed or its file removed")
        return self._staging.write(tensors, version, deadline_s=deadline_s)

    def close(self) -> None:
        """Remove the file. Receivers that have mapped it can go on reading."""
        if self._descriptor >= 0:
            pinned.unpin(self._buffer)
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


class SharedMemoryReceiver:
    """The sampler's end. Implements ports.WeightReceiver."""

    def __init__(self, payload_bytes: int, *, folder: Path = FOLDER) -> None:
        self._payload_bytes, self._folder = payload_bytes, folder
        self._name, self._slot = "", Slot(memoryview(bytearray()), 0)
        self.seconds = Seconds()

    @property
    def path(self) -> str:
        """The trainer's own file."""
        return str(self._folder / self._name)

    def source(self) -> None:
        """None: every receiver of the host reads the trainer's own copy."""
        return

    @contextmanager
    def take(self, ticket: WeightTicket, *, deadline_s: float) -> Iterator[memoryview]:
        """The verified bytes of a version where the trainer laid them; nothing is copied."""
        started = time.monotonic()
        slot = self._open(ticket)
        if not slot.holds(ticket):
            raise torn(ticket)
        opened = time.monotonic()
        slot.verify(ticket)
        self.seconds = Seconds(opened - started, time.monotonic() - opened)
        if sum((self.seconds.move, self.seconds.checksum)) > deadline_s:
            raise TimeoutError(f"verifying version {ticket.version} took more than {deadline_s} s")
        yield slot.payload
        if not slot.holds(ticket):
            raise RuntimeError(f"version {ticket.version} was replaced while it was being loaded")

    def close(self) -> None:
        """Let go of the mapping; what still refers to the bytes keeps it."""
        self._name, self._slot = "", Slot(memoryview(bytearray()), 0)

    def _open(self, ticket: WeightTicket) -> Slot:
        """The slot of the ticket's file, mapped at the first use: no write of ours reaches the file."""
        name = ticket.source.place
        refuse_unlike(ticket, transport="shared_memory", payload_bytes=self._payload_bytes)
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} does not name a weight file in shared memory")
        if name != self._name:
            size = Slot.size(self._payload_bytes)
            try:
                descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise ConnectionError(f"{self._folder / name}: gone; its trainer has ended") from None
            try:
                if os.fstat(descriptor).st_size != size:
                    raise ConnectionError(f"{self._folder / name}: not of {size} bytes")
                private = mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
            finally:
                os.close(descriptor)
            self._name, self._slot = name, Slot(memoryview(private), self._payload_bytes)
        return self._slot


def _create(folder: Path, size: int) -> tuple[Path, int]:
    """A new file of `size` bytes whose lock this process holds until it ends."""
    while True:
        path = folder / f"{PREFIX}{secrets.token_hex(8)}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:  # a sweep may have come between open and lock
            break
        os.close(descriptor)
    try:
        os.posix_fallocate(descriptor, 0, size)  # no room: an error now, not a SIGBUS later
    except OSError as error:
        path.unlink()
        os.close(descriptor)
        raise ValueError(f"{folder}: no room for {size / 1e6:.0f} MB of weights: {error.strerror}") from None
    return path, descriptor
