"""Weights between processes of one host: two slots in a file under /dev/shm.

The receiver owns the file and holds a lock on it for as long as it lives, so whoever can take the lock knows
that the owner is dead and removes the file. (`multiprocessing.shared_memory` is no choice here: its resource
tracker unlinks the segment when any process that merely read it dies.)
"""

import fcntl
import mmap
import os
import secrets
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k15.engines.weights import Named, SlotBuffer, layout_bytes, pack
from k15.records import TensorSpec, WeightTicket

FOLDER = Path("/dev/shm")
PREFIX = "k15-weights-"


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


class SharedMemoryReceiver:
    """The sampler's end. Implements ports.WeightReceiver."""

    def __init__(self, payload_bytes: int, *, folder: Path = FOLDER) -> None:
        sweep(folder)
        self._path, self._descriptor = _create(folder, SlotBuffer.size(payload_bytes))
        self._slots = SlotBuffer(memoryview(mmap.mmap(self._descriptor, 0)), payload_bytes)

    def address(self) -> dict[str, Any]:
        """The file's path, and the size of a version."""
        return {
            "transport": "shared_memory",
            "path": str(self._path),
            "payload_bytes": self._slots.payload_bytes,
        }

    def take(self, ticket: WeightTicket) -> memoryview:
        """The verified bytes of a version; ConnectionError where checksum or version differ."""
        return self._slots.take(ticket)

    def close(self) -> None:
        """Remove the file. Views of the buffer stay readable until they are dropped."""
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


class SharedMemorySender:
    """The trainer's end. Implements ports.WeightSender."""

    def __init__(self, address: dict[str, Any], layout: Sequence[TensorSpec]) -> None:
        self._layout = tuple(layout)
        self._path = Path(address["path"])
        payload_bytes = layout_bytes(layout)
        if payload_bytes != address["payload_bytes"]:
            theirs = address["payload_bytes"]
            raise ValueError(f"{self._path} takes {theirs} bytes, the layout has {payload_bytes}")
        self._slots = SlotBuffer(self._map(SlotBuffer.size(payload_bytes)), payload_bytes)
        self._next_slot = self._slots.free_slot()

    def _map(self, size: int) -> memoryview:
        try:
            descriptor = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            raise ConnectionError(f"{self._path}: gone; the sampler that made it has ended") from None
        try:
            if os.fstat(descriptor).st_size != size:
                raise ValueError(f"{self._path}: {os.fstat(descriptor).st_size} bytes, expected {size}")
            return memoryview(mmap.mmap(descriptor, size))
        finally:
            os.close(descriptor)

    def send(self, tensors: Named, version: int, *, deadline_s: float) -> WeightTicket:
        """Write one version into the slot that does not hold the newest; its header goes last."""
        end_s = time.monotonic() + deadline_s
        if not self._path.exists():
            raise ConnectionError(f"{self._path}: gone; the sampler that made it has ended")
        slot = self._next_slot
        payload = self._slots.payload(slot)
        self._slots.invalidate(slot)
        pack(tensors, self._layout, payload, end_s=end_s)
        ticket = WeightTicket(version, zlib.crc32(payload), len(payload), slot)
        self._slots.seal(ticket)
        self._next_slot = 1 - slot
        return ticket

    def close(self) -> None:
        """Nothing to free: the file is the receiver's, the mapping goes with this object."""


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
