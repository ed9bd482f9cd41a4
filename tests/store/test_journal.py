"""Journals of rounds under way: what was added is there after a kill, until the round is committed."""

import time
from collections.abc import Callable

import pytest

from k15.records import End, Part, Segment
from k15.store.artifact import CorruptArtifact, Store
from k15.store.gc import gc
from k15.store.journal import Journals
from k15.store.lease import LeaseLost, acquire
from k15.store.rollouts import SegmentRow

pytestmark = pytest.mark.services
KEY = "6" * 64
NOW = -5.0


def row(group: int, sample: int, *tokens: int) -> SegmentRow:
    segment = Segment(3, tokens, tuple(-0.1 * token for token in tokens), End.BUDGET)
    return SegmentRow(group, f"p{group}", sample, 0, 1, (7, 8), segment, (Part("image", digest="ab"),))


def pieces(store: Store) -> list[str]:
    return [info.path for info in store.objects.list(f"phases/{KEY}/")]


def test_what_a_process_added_is_there_for_the_next(store: Store) -> None:
    with Journals(store, KEY) as journals:
        first = journals.begin(1)
        assert (first.tries, dict(first.stored)) == (0, {})
        first.ask(5)
        first.add([row(0, 0, 1, 2), row(0, 1)])
        first.add([row(4, 0, 9)])
    with Journals(store, KEY) as journals:
        again = journals.begin(1)
        assert (again.tries, again.asked_again) == (1, 0)
        assert again.stored == {
            (0, 0): row(0, 0, 1, 2).segment,
            (0, 1): row(0, 1).segment,
            (4, 0): row(4, 0, 9).segment,
        }
        assert journals.begin(2).tries == 0
        journals.clear(1)
        assert pieces(store) == []
    with Journals(store, KEY) as journals:
        assert journals.begin(1).tries == 0
        journals.clear(2)
    gc(store, grace_s=NOW)


def test_pieces_leave_while_the_round_goes_on(store: Store, wait_for: Callable[..., None]) -> None:
    with Journals(store, KEY, every_s=0.05) as journals:
        journal = journals.begin(0)
        journal.ask(2)
        assert len(pieces(store)) == 1  # before anything can be sampled
        journal.add([row(0, 0, 1)])
        wait_for(lambda: len(pieces(store)) == 2)
        journal.add([row(1, 0, 2)])
        wait_for(lambda: len(pieces(store)) == 3)
        killed = Journals(store, KEY).begin(0)
        assert sorted(killed.stored) == [(0, 0), (1, 0)]


def test_each_process_counts_as_a_try_and_a_lost_lease_stores_nothing(store: Store) -> None:
    for tries in range(3):
        lease = acquire(store, KEY, f"holder {tries}")
        with Journals(store, KEY) as journals:
            journal = journals.begin(0)
            assert (journal.tries, journal.asked_again) == (tries, 10 * max(0, tries - 1))
            journal.ask(10)
        lease.release()
    lease = acquire(store, KEY, "loser", ttl_s=0.2)
    journals = Journals(store, KEY)
    time.sleep(2.5)
    with pytest.raises(LeaseLost), journals:
        store.objects.delete([f"leases/{KEY}.json"])
        journals.begin(0).add([row(0, 0, 1)])
    assert len(pieces(store)) == 3


def test_a_damaged_piece_is_named(store: Store) -> None:
    with Journals(store, KEY) as journals:
        journals.begin(0).add([row(0, 0, 1)])
    (piece,) = [path for path in pieces(store) if path.endswith(".parquet")]
    store.objects.put(piece, store.objects.get(piece)[:-1])
    with pytest.raises(CorruptArtifact, match=r"phases/.*delete it and rerun"):
        Journals(store, KEY).begin(0)


def test_the_sweep_takes_journals_of_finished_stages_only(store: Store, make: Callable[..., object]) -> None:
    manifest = make("rl", {"model/weights": b"1"})
    for key in (manifest.key, KEY):  # type: ignore[attr-defined]
        with Journals(store, key) as journals:
            journals.begin(0).ask(1)
    gc(store, grace_s=NOW)
    assert [info.path.split("/")[1] for info in store.objects.list("phases/")] == [KEY]
