"""Step checkpoints: committed under the lease, the newest kept, gone when their stage is done."""

from collections.abc import Callable
from pathlib import Path

import pytest

from k15.store.artifact import CorruptArtifact, Store
from k15.store.gc import gc
from k15.store.job import Job
from k15.store.lease import LeaseLost, acquire
from k15.store.manifest import Manifest, RoundManifest
from k15.store.runs import NodeRecord, RunRecord, RunState, write_run
from k15.store.steps import Steps, step_path

pytestmark = pytest.mark.services
Make = Callable[..., Manifest]
KEY = "1" * 64
NOW = -5.0  # a grace below the resolution of the server's times: everything is old


def saved(store: Store, *numbers: int, key: str = KEY, folder: Path) -> Steps:
    """Checkpoints of `numbers`, each of two files that hold it."""
    steps = Steps(store, key)
    for number in numbers:
        local = folder / str(number)
        (local / "trainer").mkdir(parents=True)
        (local / "trainer" / "weights").write_text(f"weights {number}")
        (local / "metrics").write_text(f"metrics {number}")
        steps.save(number, local, {"steps": number, "loss": 0.1 + 0.2})
    return steps


def numbers(steps: Steps) -> list[int]:
    return [record.number for record in steps.records()]


def test_the_last_one_comes_back_and_two_are_kept(store: Store, tmp_path: Path) -> None:
    assert Steps(store, KEY).last() is None
    steps = saved(store, 2, 10, 9_999, 123_456, folder=tmp_path)
    last = steps.last()
    assert last is not None
    assert (last.number, last.state) == (123_456, {"steps": 123_456, "loss": 0.1 + 0.2})
    directory = steps.download(last, tmp_path / "back")
    assert (directory / "trainer" / "weights").read_text() == "weights 123456"
    assert (directory / "metrics").read_text() == "metrics 123456"
    assert numbers(steps) == [9_999, 123_456]
    assert len(store.objects.list(f"attempts/{KEY}/")) == 4  # the swept ones' bytes went with them
    steps.clear()
    assert store.objects.list("steps/") == store.objects.list("attempts/") == []


def test_only_the_holder_of_the_lease_commits(store: Store, tmp_path: Path) -> None:
    lease = acquire(store, KEY)
    steps = saved(store, 1, folder=tmp_path)
    last = steps.last()
    assert last is not None
    assert last.epoch == lease.epoch
    store.objects.delete([f"leases/{KEY}.json"])
    with pytest.raises(LeaseLost):
        saved(store, 2, folder=tmp_path)
    assert numbers(steps) == [1]


def test_a_step_is_committed_once(store: Store, tmp_path: Path) -> None:
    steps = saved(store, 1, folder=tmp_path)
    with pytest.raises(RuntimeError, match="another process committed this step"):
        saved(store, 1, folder=tmp_path / "again")
    assert numbers(steps) == [1]


def test_damaged_and_foreign_ones_are_refused(store: Store, tmp_path: Path) -> None:
    steps = saved(store, 1, folder=tmp_path)
    record = steps.last()
    assert record is not None
    weights = f"attempts/{KEY}/{record.attempt}/trainer/weights"
    store.objects.put(weights, b"weights")
    with pytest.raises(CorruptArtifact, match="trainer/weights: corrupt"):
        steps.download(record, tmp_path / "truncated")
    store.objects.delete([weights])
    with pytest.raises(CorruptArtifact, match="it is gone"):
        steps.download(record, tmp_path / "gone")
    encoded = store.objects.get(step_path(KEY, 1))
    foreign = Steps(store, "2" * 64)
    store.objects.put(step_path("2" * 64, 1), encoded)
    with pytest.raises(CorruptArtifact, match=f"it is step 1 of stage {KEY}"):
        foreign.last()
    store.objects.put(step_path(KEY, 2), encoded)
    with pytest.raises(CorruptArtifact, match="it is step 1 of stage"):
        steps.last()
    store.objects.put(step_path(KEY, 2), encoded.replace(b"0.3", b"0.4"))
    with pytest.raises(CorruptArtifact, match="checksum"):
        steps.last()
    steps.clear()  # damaged ones too
    assert store.objects.list("steps/" + KEY) == []
    assert RoundManifest.decode(encoded, "x").key == KEY


def test_gc_keeps_them_until_their_stage_is_done(store: Store, make: Make, tmp_path: Path) -> None:
    data = make("data", {"rows": b"1"})
    job = Job(node="sft", kind="sft", version=1, recipe={}, inputs={"data": data.ref()})
    store.put_job(job)
    steps = saved(store, 3, 6, key=job.key, folder=tmp_path)
    store.begin(job.key).write_bytes("half", b"1")  # of a save that was killed
    swept = gc(store, grace_s=NOW)
    assert (len(swept.attempts), swept.num_objects) == (1, 1)
    last = steps.last()
    assert last is not None
    steps.download(last, tmp_path / "back")
    done = make("sft", {"model/w": b"1"}, kind="sft", inputs={"data": data.ref()})
    assert done.key == job.key
    swept = gc(store, grace_s=NOW)
    assert (len(swept.attempts), len(swept.others)) == (2, 3)  # two checkpoints and the job
    assert store.objects.list("steps/") == []
    assert len(store.objects.list(f"attempts/{job.key}/")) == 1


def test_asked_what_to_keep_gc_sweeps_those_nobody_goes_on_from(
    store: Store, make: Make, tmp_path: Path
) -> None:
    data = make("data", {"rows": b"1"})
    jobs = [
        Job(node="sft", kind="sft", version=1, recipe={"n": n}, inputs={"data": data.ref()}) for n in range(3)
    ]
    for job in jobs:
        store.put_job(job)
        saved(store, 3, key=job.key, folder=tmp_path / job.key)
    lease = acquire(store, jobs[0].key)
    record = RunRecord(
        run_id="r",
        pipeline="p",
        recipe="r",
        final="sft",
        nodes={"sft": NodeRecord(kind="sft", key=jobs[1].key)},
        started="",
    )
    write_run(store, record)
    assert gc(store, keep=[]).num_objects == 0  # all are young
    swept = gc(store, keep=[], grace_s=NOW)
    assert [path for path in swept.others if path.startswith("steps/")] == [step_path(jobs[2].key, 3)]
    assert [numbers(Steps(store, job.key)) for job in jobs] == [[3], [3], []]
    assert store.manifest(data.key) is not None
    lease.release()
    write_run(store, record.model_copy(update={"state": RunState.FAILED}))
    assert gc(store, keep=[], grace_s=NOW).stages == [data.key]
    assert [info.path for info in store.objects.list("") if not info.path.startswith("runs/")] == []
