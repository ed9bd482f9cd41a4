"""The sweep takes what nothing needs, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from k15.store.artifact import Store, manifest_path
from k15.store.gc import gc
from k15.store.job import Job
from k15.store.lease import acquire
from k15.store.manifest import CorruptArtifact, Manifest
from k15.store.tree import verify

pytestmark = pytest.mark.services
Make = Callable[..., Manifest]
NOW = -5.0  # a grace below the resolution of the server's times: everything is old


def orphan(store: Store, key: str) -> None:
    """An attempt nobody committed."""
    store.begin(key).write_bytes("half", b"1")


def test_committed_work_stays(store: Store, make: Make) -> None:
    data = make("data", {"rows": b"1"})
    orphan(store, data.key)
    orphan(store, "1" * 64)
    swept = gc(store, grace_s=NOW)
    assert (len(swept.attempts), swept.stages, swept.num_objects, swept.num_bytes) == (2, [], 2, 2)
    assert verify(store, data.ref()) == []
    assert gc(store, grace_s=NOW).num_objects == 0


def test_a_dry_run_removes_nothing(store: Store, make: Make) -> None:
    make("data", {"rows": b"1"})
    orphan(store, "1" * 64)
    before = store.objects.list("")
    assert gc(store, keep=[], dry_run=True, grace_s=NOW).num_objects == 3
    assert store.objects.list("") == before


def test_young_and_leased_attempts_stay(store: Store) -> None:
    orphan(store, "1" * 64)
    assert gc(store).num_objects == 0
    lease = acquire(store, "1" * 64)
    assert gc(store, grace_s=NOW).num_objects == 0
    lease.release()
    assert gc(store, grace_s=NOW).num_objects == 1


def test_rounds_stay_until_their_stage_is_done(store: Store, make: Make) -> None:
    job = Job(node="rl", kind="rl", version=1, recipe={})
    store.put_job(job)
    for number in range(2):
        attempt = store.begin(job.key)
        attempt.write_bytes("model/weights", b"1")
        store.commit_round(job.key, number, attempt, {})
    orphan(store, job.key)
    assert gc(store, keep=[], grace_s=NOW).num_objects == 1
    record = store.last_round(job.key)
    assert record is not None
    assert store.open_round(record).read_bytes() == b"1"
    done = make("rl", {"model/weights": b"2"}, kind="rl")
    assert gc(store).num_objects == 0
    assert len(store.rounds(job.key)) == 2
    lease = acquire(store, job.key)
    assert gc(store, grace_s=NOW).num_objects == 0
    lease.release()
    swept = gc(store, grace_s=NOW)
    assert len(swept.attempts) == 2
    assert len([path for path in swept.others if path.startswith("rounds/")]) == 2
    assert store.rounds(job.key) == []
    assert verify(store, done.ref()) == []


def test_a_swept_stage_whose_manifest_is_deleted_begins_anew(store: Store, make: Make) -> None:
    job = Job(node="rl", kind="rl", version=1, recipe={})
    assert store.commit_round(job.key, 0, store.begin(job.key), {})
    make("rl", {"model/weights": b"2"}, kind="rl")
    gc(store, grace_s=NOW)
    store.objects.delete([manifest_path(job.key)])
    assert store.last_round(job.key) is None
    assert store.commit_round(job.key, 0, store.begin(job.key), {})


def test_the_remedy_for_a_damaged_round_works(store: Store) -> None:
    key = "1" * 64
    for number in range(3):
        attempt = store.begin(key)
        attempt.write_bytes("model/weights", b"1")
        store.commit_round(key, number, attempt, {})
    second = store.rounds(key)[1]
    uri = store.objects.uri(f"rounds/{key}/000001.json")
    store.objects.delete([f"attempts/{key}/{second.attempt}/model/weights"])
    with pytest.raises(CorruptArtifact, match=f"delete {uri} and every later round"):
        store.open_round(second).read_bytes()
    store.objects.delete([f"rounds/{key}/{number:06d}.json" for number in (1, 2)])
    assert store.commit_round(key, 1, store.begin(key), {})


def test_keeping_a_model_keeps_all_it_was_made_from(store: Store, make: Make, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    raw = [store.ingest(tmp_path / name) for name in "ab"]
    data = make("data", {"rows": b"1"}, inputs={"questions": raw[0]})
    old = make("sft", {"model/w": b"old"}, kind="sft", recipe={"lr": 1}, inputs={"data": data.ref()})
    new = make("sft", {"model/w": b"new"}, kind="sft", recipe={"lr": 2}, inputs={"data": data.ref()})
    lonely = make("other", {"rows": b"1"}, recipe={"x": 1}, inputs={"questions": raw[1]})
    swept = gc(store, keep=[new.key], grace_s=NOW)
    assert swept.stages == sorted([old.key, lonely.key])
    assert {manifest.key for manifest in store.manifests()} == {data.key, new.key}
    assert verify(store, new.ref()) == []
    assert [info.path for info in store.objects.list("raw/")] == [f"raw/{raw[0].key}"]
    with pytest.raises(ValueError, match="nowhere"):
        gc(store, keep=["nowhere"], grace_s=NOW)


def test_what_a_stage_at_work_reads_stays(store: Store, make: Make) -> None:
    data = make("data", {"rows": b"1"})
    job = Job(node="sft", kind="sft", version=1, recipe={}, inputs={"data": data.ref()})
    store.put_job(job)
    lease = acquire(store, job.key)
    assert gc(store, keep=[], grace_s=NOW).num_objects == 0
    lease.release()
    assert gc(store, keep=[], grace_s=NOW).stages == [data.key]
