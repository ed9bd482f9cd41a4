"""Leases: one holder, fenced commits, takeover from the dead and the silent."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from k15.store.artifact import Store
from k15.store.job import Job
from k15.store.lease import Held, Lease, LeaseLost, LeaseRecord, acquire, is_dead, lease_path, this_process
from k15.store.manifest import Provenance
from k15.store.objects import Objects, StoreError
from tests.s3 import s3_server

pytestmark = pytest.mark.services
JOB = Job(node="rl", kind="rl", version=1, recipe={})
ELSEWHERE = "another-host/1/2/3"

HOLDER = """
import os, sys
from k15.store.artifact import Store
from k15.store.lease import acquire
acquire(Store.from_environment(os.environ), "k")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def second(s3_environment: dict[str, str]) -> Store:
    """The same store as another process sees it."""
    return Store.from_environment(s3_environment)


@pytest.fixture
def refused(s3_environment: dict[str, str]) -> Objects:
    """The same store by credentials that it refuses."""
    objects = Objects.from_environment(s3_environment | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    with pytest.raises(StoreError, match="refused"):
        objects.check()
    return objects


def silence(lease: Lease) -> None:
    """Stop renewing, as a frozen process does."""
    lease._end.set()


def test_a_lease_has_one_holder(store: Store, second: Store) -> None:
    lease = acquire(store, "k")
    with pytest.raises(Held, match=this_process()) as held:
        acquire(second, "k")
    assert held.value.holder == this_process()
    lease.release()
    again = acquire(second, "k")
    assert (lease.epoch, again.epoch) == (1, 2)
    again.release()


def test_of_racing_holders_one_wins(s3_environment: dict[str, str]) -> None:
    def attempt(store: Store) -> Lease | None:
        try:
            return acquire(store, "k")
        except Held:
            return None

    with ThreadPoolExecutor(6) as pool:
        leases = [lease for lease in pool.map(attempt, [Store.from_environment(s3_environment)] * 6) if lease]
    assert len(leases) == 1
    leases[0].release()


def test_a_killed_holder_is_succeeded_at_once(store: Store, s3_environment: dict[str, str]) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env=os.environ | s3_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        with pytest.raises(Held):
            acquire(store, "k")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        lease = acquire(store, "k")
    assert lease.epoch == 2
    lease.release()


def test_a_silent_holder_elsewhere_is_succeeded_after_its_time(store: Store, second: Store) -> None:
    first = acquire(store, "k", ELSEWHERE, 1.0)
    silence(first)
    started = time.monotonic()
    while True:
        try:
            lease = acquire(second, "k", ttl_s=5.0)
            break
        except Held:
            assert time.monotonic() - started < 20
            time.sleep(0.2)
    assert time.monotonic() - started > 1.0
    lease.release()


def test_renewal_keeps_a_lease(store: Store, second: Store) -> None:
    lease = acquire(store, "k", ELSEWHERE, 1.5)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        with pytest.raises(Held):
            acquire(second, "k")
        time.sleep(0.3)
    lease.check()
    lease.release()


def test_a_superseded_holder_cannot_commit(store: Store, second: Store) -> None:
    old = acquire(store, JOB.key, ELSEWHERE)
    silence(old)
    take_over(second, JOB.key)
    attempt = store.begin(JOB.key)
    attempt.write_bytes("model/weights", b"old")
    with pytest.raises(LeaseLost):
        store.commit_round(JOB.key, 0, attempt, {})
    with pytest.raises(LeaseLost):
        store.commit(attempt, JOB, Provenance(), {})
    assert store.manifest(JOB.key) is None
    assert store.rounds(JOB.key) == []


def test_a_frozen_holder_knows_that_its_time_is_up(store: Store) -> None:
    lease = acquire(store, "k", ELSEWHERE, 0.5)
    silence(lease)
    time.sleep(0.6)
    with pytest.raises(LeaseLost):
        lease.check()


def test_the_loss_of_a_lease_is_told_once(
    store: Store, second: Store, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    told: list[int] = []
    lease = acquire(store, "k", ELSEWHERE, 1.5, on_lost=lambda: told.append(1))
    take_over(second, "k")
    wait_for(lambda: told == [1])
    with pytest.raises(LeaseLost):
        lease.check()
    lease.release()
    assert "k" not in store.fences
    assert threading.active_count() < 20


def test_a_refusal_that_ends_in_time_does_not_end_renewal(
    store: Store, second: Store, refused: Objects, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    told: list[int] = []
    lease = acquire(store, "k", ELSEWHERE, 6.0, on_lost=lambda: told.append(1))
    serving, store.objects = store.objects, refused
    time.sleep(2.5)  # one renewal
    store.objects = serving
    wait_for(lambda: LeaseRecord.model_validate_json(serving.get(lease_path("k"))).beat > 0)
    lease.check()
    with pytest.raises(Held):
        acquire(second, "k")
    assert told == []
    lease.release()


def test_a_refusal_that_lasts_loses_the_lease(
    store: Store, refused: Objects, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    told: list[int] = []
    lease = acquire(store, "k", ELSEWHERE, 1.5, on_lost=lambda: told.append(1))
    store.objects = refused
    wait_for(lambda: told == [1])
    with pytest.raises(LeaseLost):
        lease.check()


def test_release_is_quiet_where_the_store_refuses(store: Store, refused: Objects) -> None:
    lease = acquire(store, "k")
    store.objects = refused
    lease.release()
    assert "k" not in store.fences


def test_a_round_records_the_epoch_it_was_committed_under(store: Store) -> None:
    acquire(store, JOB.key).release()
    lease = acquire(store, JOB.key)
    assert store.commit_round(JOB.key, 0, store.begin(JOB.key), {})
    assert [record.epoch for record in store.rounds(JOB.key)] == [2]
    lease.release()


def test_who_is_dead() -> None:
    host, namespace, pid, started = this_process().split("/")
    assert not is_dead(this_process())
    assert is_dead(f"{host}/{namespace}/{pid}/{int(started) + 1}")
    assert is_dead(f"{host}/{namespace}/4194305/{started}")
    assert not is_dead(f"elsewhere/{namespace}/4194305/{started}")
    assert not is_dead("a name without a process")


def take_over(store: Store, key: str) -> None:
    """Take a lease as if its time were up; its holder may renew it in between."""
    won = False
    while not won:
        etag = store.objects.version(lease_path(key)).etag
        old = LeaseRecord.model_validate_json(store.objects.get(lease_path(key)))
        new = old.model_copy(update={"token": "another", "epoch": old.epoch + 1})
        won = store.objects.put_if_match(lease_path(key), new.encode(), etag)


def test_a_lease_ends_on_time_while_the_store_is_silent(tmp_path: Path) -> None:
    """A store that takes calls and answers none: a renewal waits for minutes, and its lease does not."""
    with s3_server(tmp_path / "s3") as server:
        lost = threading.Event()
        lease = acquire(Store.from_environment(server.environment), "k", ttl_s=3.0, on_lost=lost.set)
        assert not lost.wait(6.0)
        server.signal(signal.SIGSTOP)
        assert lost.wait(4.0)
        with pytest.raises(LeaseLost):
            lease.check()
        server.signal(signal.SIGCONT)
