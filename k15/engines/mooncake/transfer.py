"""Weights from trainer to sampler over Mooncake's TransferEngine, one-sided writes into registered memory."""

import ctypes
import json
import mmap
import os
import time
import zlib
from collections.abc import Sequence
from typing import Any

from mooncake.engine import TransferEngine

from k15.engines.weights import (
    HEADER_BYTES,
    Named,
    SlotBuffer,
    header_bytes,
    invalid_header,
    layout_bytes,
    pack,
)
from k15.records import TensorSpec, WeightTicket

FORCED_BY = {"tcp": "MC_FORCE_TCP", "rdma": "MC_FORCE_HCA"}
MIN_TIMEOUT_S = 5  # Mooncake takes no less
CHUNK_BYTES = 64 << 20  # the deadline is checked between chunks


class MooncakeReceiver:
    """The sampler's end: one registered buffer of two slots. Implements ports.WeightReceiver."""

    def __init__(self, payload_bytes: int, *, transport: str, host: str, timeout_s: int) -> None:
        self._memory = mmap.mmap(-1, SlotBuffer.size(payload_bytes))  # page-aligned
        self._slots = SlotBuffer(memoryview(self._memory), payload_bytes)
        self._engine = _engine(transport, host, timeout_s)
        self._base = _register(self._engine, self._memory)
        self._transport = transport
        self._peer = f"{host}:{self._engine.get_rpc_port()}"

    def address(self) -> dict[str, Any]:
        """Peer, base address of the buffer, and the size of a version."""
        return {
            "transport": self._transport,
            "peer": self._peer,
            "base": self._base,
            "payload_bytes": self._slots.payload_bytes,
        }

    def take(self, ticket: WeightTicket) -> memoryview:
        """The verified bytes of a version; ConnectionError where checksum or version differ."""
        return self._slots.take(ticket)

    def close(self) -> None:
        """Take the buffer back from the network."""
        if self._base:
            _checked(self._engine.unregister_memory(self._base), "unregistering the weight buffer")
            self._base = 0


class MooncakeSender:
    """The trainer's end: one registered buffer of one slot. Implements ports.WeightSender."""

    def __init__(
        self,
        address: dict[str, Any],
        layout: Sequence[TensorSpec],
        *,
        transport: str,
        host: str,
        timeout_s: int,
    ) -> None:
        self._layout = tuple(layout)
        self._peer: str = address["peer"]
        self._remote: int = address["base"]
        self._timeout_s = timeout_s
        self._num_bytes = layout_bytes(layout)
        if self._num_bytes != address["payload_bytes"]:
            theirs = address["payload_bytes"]
            raise ValueError(f"{self._peer} takes {theirs} bytes, the layout has {self._num_bytes}")
        self._memory = mmap.mmap(-1, SlotBuffer.stride(self._num_bytes))
        self._engine = _engine(transport, host, timeout_s)
        self._base = _register(self._engine, self._memory)
        self._next_slot = 0

    def send(self, tensors: Named, version: int, *, deadline_s: float) -> WeightTicket:
        """Write one version into the slot that does not hold the newest; its header goes last.

        ConnectionError: the peer is dead or refused; TimeoutError: it is silent, or the deadline has passed
        (kept to within one chunk or the transfer timeout). Both name the peer, whose other slot stays whole.
        """
        end_s = time.monotonic() + deadline_s
        slot = self._next_slot
        start = slot * SlotBuffer.stride(self._num_bytes)
        buffer = memoryview(self._memory)
        payload = buffer[HEADER_BYTES : HEADER_BYTES + self._num_bytes]
        pack(tensors, self._layout, payload, end_s=end_s)
        ticket = WeightTicket(version, zlib.crc32(payload), self._num_bytes, slot)
        self._write_header(invalid_header(), start, end_s)
        for offset in range(0, self._num_bytes, CHUNK_BYTES):
            size = min(CHUNK_BYTES, self._num_bytes - offset)
            self._write(HEADER_BYTES + offset, start + HEADER_BYTES + offset, size, end_s)
        self._write_header(header_bytes(ticket), start, end_s)
        self._next_slot = 1 - slot
        return ticket

    def close(self) -> None:
        """Take the buffer back from the network."""
        if self._base:
            _checked(self._engine.unregister_memory(self._base), "unregistering the weight buffer")
            self._base = 0

    def _write_header(self, header: bytes, start: int, end_s: float) -> None:
        self._memory[: len(header)] = header
        self._write(0, start, len(header), end_s)

    def _write(self, local: int, remote: int, size: int, end_s: float) -> None:
        started = time.monotonic()
        if started > end_s:
            raise TimeoutError(f"sending weights to {self._peer} passed its deadline")
        code = self._engine.transfer_sync_write(self._peer, self._base + local, self._remote + remote, size)
        if code == 0:
            return
        seconds = time.monotonic() - started
        if seconds > self._timeout_s * 0.9:
            raise TimeoutError(f"{self._peer} took no weights for {seconds:.1f} s; is its process stopped?")
        raise ConnectionError(f"sending weights to {self._peer} failed (code {code}); is its process alive?")


def _engine(transport: str, host: str, timeout_s: int) -> TransferEngine:
    """An engine that really uses `transport`; ValueError where the machine cannot.

    Mooncake ignores its protocol argument and reads these variables alone, at this moment. Asked for rdma
    without a device it falls back to TCP in silence, hence the look at the devices it found.
    """
    if transport not in FORCED_BY:
        raise ValueError(f"transport: {transport!r}; use shared_memory, tcp or rdma")
    if timeout_s < MIN_TIMEOUT_S:
        raise ValueError(f"transfer_timeout_s: {timeout_s}; Mooncake takes at least {MIN_TIMEOUT_S}")
    for name, variable in FORCED_BY.items():
        os.environ.pop(variable, None)
        if name == transport:
            os.environ[variable] = "1"
    os.environ["MC_TRANSFER_TIMEOUT"] = str(timeout_s)
    engine = TransferEngine()
    code = engine.initialize(host, "P2PHANDSHAKE", transport, "")
    if transport == "rdma" and (code != 0 or not rdma_devices(engine)):
        raise ValueError(f"transport: rdma was asked for, but {host} has no RDMA device; use tcp")
    _checked(code, f"starting Mooncake on {host}")
    return engine


def rdma_devices(engine: TransferEngine) -> list[str]:
    """The host channel adapters Mooncake found."""
    topology = json.loads(engine.get_local_topology() or "{}")  # {"cpu:0": [[preferred], [available]], ...}
    return sorted({name for lists in topology.values() for names in lists for name in names})


def _register(engine: TransferEngine, memory: mmap.mmap) -> int:
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _checked(engine.register_memory(base, len(memory)), f"registering {len(memory)} bytes")
    return base


def _checked(code: int, what: str) -> None:
    if code != 0:
        raise RuntimeError(f"{what} failed with Mooncake code {code}")
