"""Mooncake's TransferEngine over one registered buffer, and the traps around it."""

import json
import os
import time

from mooncake.engine import TransferEngine

from k15.engines.pinned import address
from k15.records import WeightSource

FORCED_BY = {"tcp": "MC_FORCE_TCP", "rdma": "MC_FORCE_HCA"}
MIN_TIMEOUT_S = 5  # Mooncake takes no less


class Registered:
    """A buffer that peers may read, and that reads theirs."""

    def __init__(self, buffer: memoryview, *, transport: str, host: str, timeout_s: int) -> None:
        """Register the whole of `buffer`, which must live as long; ValueError where `transport` cannot be."""
        self._buffer, self._host, self._timeout_s = buffer, host, timeout_s
        self._base = address(buffer)
        self._begin(transport)
        self._failed = False

    def _begin(self, transport: str) -> None:
        self._engine = start(transport, self._host, self._timeout_s)
        size = len(self._buffer)
        _checked(self._engine.register_memory(self._base, size), f"registering {size} bytes")
        self.source = WeightSource(transport, f"{self._host}:{self._engine.get_rpc_port()}", self._base)
        self.open = True

    def settle(self) -> None:
        """Make sure that no read that failed still writes into the buffer; `source` may change by it.

        Mooncake gives up waiting for a silent peer, not the read: once the peer is back, its bytes arrive,
        whatever the buffer holds by then. They end with the engine alone.
        """
        if self._failed:
            self.close()
            self._begin(self.source.transport)  # the last engine goes, and its sessions with it
            self._failed = False

    def read(self, source: WeightSource, offset: int, size: int, end_s: float) -> None:
        """Copy `size` bytes at `offset` of the source's buffer to the same offset of this one.

        ConnectionError: the peer is dead or refused; TimeoutError: it is silent, or the deadline has passed.
        """
        started = time.monotonic()
        if started > end_s:
            raise TimeoutError(f"taking weights from {source.place} passed its deadline")
        code = self._engine.transfer_sync_read(source.place, self._base + offset, source.base + offset, size)
        if code == 0:
            return
        self._failed = True
        seconds = time.monotonic() - started
        if seconds > self._timeout_s * 0.9:
            raise TimeoutError(f"{source.place} gave no weights for {seconds:.1f} s; is its process stopped?")
        raise ConnectionError(
            f"taking weights from {source.place} failed (code {code}); is its process alive?"
        )

    def close(self) -> None:
        """Take the buffer back from the network."""
        if self.open:
            _checked(self._engine.unregister_memory(self._base), "unregistering the weight buffer")
            self.open = False


def start(transport: str, host: str, timeout_s: int) -> TransferEngine:
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


def _checked(code: int, what: str) -> None:
    if code != 0:
        raise RuntimeError(f"{what} failed with Mooncake code {code}")
