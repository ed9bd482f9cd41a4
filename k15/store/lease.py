"""Leases: at most one process works on a stage key, and one that lost its lease cannot commit.

A lease is one object, changed by conditional puts only. Each new holder raises its `epoch`. Whether it lapsed
is judged by the store's own clock; on the holder's host and pid namespace a dead holder's lapses at once.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from k15.config import Config
from k15.store.artifact import Store
from k15.store.objects import Objects, StoreError, Version

TTL_S = 30.0
CLOCK_STEP_S = 1.0  # HTTP dates count whole seconds


class Held(RuntimeError):
    """Another live process holds the lease; `holder` says which."""

    def __init__(self, key: str, holder: str, lapses_in_s: float) -> None:
        super().__init__(
            f"stage {key} is leased by {holder}; that lapses in {lapses_in_s:.0f} s unless renewed"
        )
        self.holder = holder


class LeaseLost(RuntimeError):
    """This process no longer holds the lease: it must stop, and may not commit."""


class LeaseRecord(Config):
    """The stored state of a lease."""

    key: str
    holder: str
    token: str  # of one acquisition
    epoch: int
    beat: int  # raised by each renewal, so that no two versions have equal bytes
    ttl_s: float
    released: bool = False

    def encode(self) -> bytes:
        """As stored."""
        return self.model_dump_json().encode()

    def lapsed(self, age_s: float) -> bool:
        """Whether another may take it, `age_s` after it was last written."""
        return self.released or age_s > self.ttl_s + CLOCK_STEP_S or is_dead(self.holder)


class Lease:
    """A held lease. A thread renews it; `on_lost` is called once, from a thread, when it is lost.

    It is lost when another took it, and when the time of its last renewal is over, whatever became of the
    next one: a store that is silent, and not gone, answers a call only after minutes.
    """

    def __init__(self, store: Store, record: LeaseRecord, on_lost: Callable[[], None]) -> None:
        self.epoch = record.epoch
        self._store = store
        self._record = record
        self._on_lost = on_lost
        self._lost = self._told = False
        self._telling = threading.Lock()
        self._deadline = time.monotonic() + record.ttl_s
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep, name="lease", daemon=True),
            threading.Thread(target=self._lapse, name="lease-end", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """LeaseLost unless the store still names this acquisition."""
        current = None if self._overdue() else read_lease(self._store.objects, self._record.key)
        if current is None or current[0].token != self._record.token:
            self._lost = True
            raise LeaseLost(f"lease of stage {self._record.key} (epoch {self.epoch}) is lost")

    def renew(self) -> None:
        """Write the lease anew; LeaseLost where another took it."""
        self._write(released=False)

    def release(self) -> None:
        """Give it up; another may take it at once. Quiet where the store does not serve: then it lapses."""
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._store.fences.pop(self._record.key, None)
        if self._overdue():
            return
        try:
            self._write(released=True)
        except (LeaseLost, StoreError):
            self._lost = True

    def _write(self, *, released: bool) -> None:
        with self._lock:
            started = time.monotonic()
            current = read_lease(self._store.objects, self._record.key)
            if current is None or current[0].token != self._record.token:
                raise LeaseLost(f"lease of stage {self._record.key} was taken over")
            renewed = self._record.model_copy(update={"beat": current[0].beat + 1, "released": released})
            path = lease_path(self._record.key)
            if not self._store.objects.put_if_match(path, renewed.encode(), current[1].etag):
                raise LeaseLost(f"lease of stage {self._record.key} was taken over")
            self._deadline = started + self._record.ttl_s

    def _keep(self) -> None:
        while not self._end.wait(self._record.ttl_s / 3):
            try:
                self.renew()
            except StoreError:  # of any kind: the lease is held for as long as its last renewal reaches
                self._lost = self._overdue()
            except LeaseLost:
                self._lost = True
            if self._lost:
                self._tell()
                return

    def _lapse(self) -> None:
        while not self._end.wait(max(0.0, self._deadline - time.monotonic())):
            if self._overdue():
                self._lost = True
                self._tell()
                return

    def _tell(self) -> None:
        """Call `on_lost`, the first time."""
        with self._telling:
            told, self._told = self._told, True
        if not told:
            self._on_lost()

    def _overdue(self) -> bool:
        return self._lost or time.monotonic() > self._deadline


def acquire(
    store: Store,
    key: str,
    holder: str = "",
    ttl_s: float = TTL_S,
    *,
    on_lost: Callable[[], None] = lambda: None,
) -> Lease:
    """Take the lease of a stage key, or raise Held. From then on commits under the key check it."""
    current = read_lease(store.objects, key)
    if current is not None and not current[0].lapsed(current[1].age_s):
        raise Held(key, current[0].holder, max(0.0, current[0].ttl_s - current[1].age_s))
    record = LeaseRecord(
        key=key,
        holder=holder or this_process(),
        token=str(uuid4()),
        epoch=current[0].epoch + 1 if current else 1,
        beat=0,
        ttl_s=ttl_s,
    )
    path = lease_path(key)
    if current is None:
        won = store.objects.put_if_absent(path, record.encode())
    else:
        won = store.objects.put_if_match(path, record.encode(), current[1].etag)
    if not won:
        raise Held(key, "a process that was faster", ttl_s)
    lease = Lease(store, record, on_lost)
    store.fences[key] = lease
    return lease


def read_lease(objects: Objects, key: str) -> tuple[LeaseRecord, Version] | None:
    """A lease's state with a tag that is its own or an older one's, so a put that matches it is safe."""
    path = lease_path(key)
    try:
        version = objects.version(path)
        return LeaseRecord.model_validate_json(objects.get(path)), version
    except FileNotFoundError:
        return None


def lease_path(key: str) -> str:
    """Where a lease lies."""
    return f"leases/{key}.json"


def this_process() -> str:
    """host/pid-namespace/pid/start-time: names one process for ever."""
    return f"{socket.gethostname()}/{_pid_namespace()}/{os.getpid()}/{_start_time(os.getpid())}"


def is_dead(holder: str) -> bool:
    """Whether `holder` ran on this host and is no more. False where that cannot be known."""
    parts = holder.split("/")
    if len(parts) != 4 or parts[:2] != [socket.gethostname(), _pid_namespace()] or not parts[1]:
        return False
    return _start_time(int(parts[2])) != parts[3]


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    """Ticks since boot at which a process began; "" where it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
