"""Artifacts: committed once, read with their digests checked."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow
import pytest

from k15.store.artifact import Store, manifest_path
from k15.store.gc import gc
from k15.store.job import Job
from k15.store.manifest import CorruptArtifact, Manifest, Provenance

pytestmark = pytest.mark.services
Make = Callable[..., Manifest]

KILLED_WRITER = """
import os, sys
from k15.store.artifact import Store
attempt = Store.from_environment(os.environ).begin("0" * 64)
attempt.write_bytes("model/one", b"1")
with attempt.open("model/two") as stream:
    stream.write(bytes(20 * 2**20))
    print("half way", flush=True)
    sys.stdin.read()
"""


def flip(store: Store, path: str, at: int = -1) -> bytes:
    """Change one bit of a stored object; returns what it was."""
    whole = store.objects.get(path)
    damaged = bytearray(whole)
    damaged[at] ^= 1
    store.objects.put(path, bytes(damaged))
    return whole


def test_what_is_written_is_read(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "weights.safetensors").write_bytes(os.urandom(1000))
    (tmp_path / "in" / "config.json").write_text("{}")
    job = Job(node="sft", kind="sft", version=1, recipe={"steps": 3})
    attempt = store.begin(job.key)
    attempt.write_json("report.json", {"loss": 0.5})
    attempt.write_table("rows.parquet", pyarrow.table({"x": [1, 2]}))
    attempt.add_directory("model", tmp_path / "in")
    assert store.manifest(job.key) is None
    manifest = store.commit(attempt, job, Provenance(commit="abc"), {"loss": 0.5})
    assert manifest == store.manifest(job.key)
    assert store.manifests() == [manifest]
    whole = store.open_manifest(manifest)
    assert whole.read_json("report.json") == {"loss": 0.5}
    assert whole.read_table("rows.parquet").to_pydict() == {"x": [1, 2]}
    model = store.open(manifest.ref("model"))
    assert [entry.path for entry in model.files] == ["config.json", "deep/weights.safetensors"]
    assert model.uri == store.uri(job.key, "model")
    target = model.download(tmp_path / "out")
    for name in ("config.json", "deep/weights.safetensors"):
        assert (target / name).read_bytes() == (tmp_path / "in" / name).read_bytes()
    whole.download(tmp_path / "part", "model")
    assert (tmp_path / "part" / "model" / "config.json").is_file()
    assert not (tmp_path / "part" / "report.json").exists()


def test_an_input_is_identified_by_its_own_part(make: Make) -> None:
    first = make("data", {"train/rows": b"1", "heldout/rows": b"2"}, recipe={"seed": 0})
    second = make("data", {"train/rows": b"1", "heldout/rows": b"3"}, recipe={"seed": 1})
    assert first.part_digest("train") == second.part_digest("train")
    assert first.part_digest("heldout") != second.part_digest("heldout")
    jobs = [
        Job(node="sft", kind="sft", version=1, recipe={}, inputs={"data": manifest.ref("train")})
        for manifest in (first, second)
    ]
    assert jobs[0].key == jobs[1].key


def test_resources_and_context_are_not_in_the_key() -> None:
    job = Job.parse({"node": "a", "kind": "sft", "version": 1, "recipe": {"lr": 0.1}}, where="test")
    other = Job.parse(
        {
            "node": "b",
            "kind": "sft",
            "version": 1,
            "recipe": {"lr": 0.1},
            "resources": {"cores": 8, "retries": 5},
            "context": {"run_id": "r", "image_digest": "sha256:1"},
        },
        where="test",
    )
    assert job.key == other.key
    for change in ({"version": 2}, {"kind": "rl"}, {"recipe": {"lr": 0.2}}):
        assert job.model_copy(update=change).key != job.key


def test_of_racing_commits_one_wins_and_all_get_it(store: Store) -> None:
    job = Job(node="data", kind="data", version=1, recipe={})

    def run(number: int) -> Manifest:
        attempt = store.begin(job.key)
        attempt.write_bytes("rows", str(number).encode())
        return store.commit(attempt, job, Provenance(), {})

    with ThreadPoolExecutor(6) as pool:
        manifests = list(pool.map(run, range(4)))
    assert len({manifest.attempt for manifest in manifests}) == 1
    assert store.open_manifest(manifests[0]).read_bytes() in [b"0", b"1", b"2", b"3", b"4", b"5"]
    gc(store, grace_s=-5)
    assert len(store.objects.list("attempts/")) == 1
    assert store.open_manifest(manifests[0]).read_bytes("rows")


def test_a_killed_writer_leaves_no_manifest_and_is_swept(
    store: Store, s3_environment: dict[str, str]
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER],
        env=os.environ | s3_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with writer:
        assert writer.stdout and writer.stdout.readline() == b"half way\n"
        writer.send_signal(signal.SIGKILL)
    assert store.manifests() == []
    assert len(store.objects.list("attempts/")) == 1
    assert gc(store).num_objects == 0
    seen = gc(store, dry_run=True, grace_s=-5)
    assert (seen.num_objects, seen.num_uploads) == (1, 1)
    assert len(store.objects.list("attempts/")) == 1
    gc(store, grace_s=-5)
    assert store.objects.list("attempts/") == []
    assert not store.objects.multiparts("attempts/", -5)


def test_reads_catch_a_corrupt_byte(store: Store, make: Make, tmp_path: Path) -> None:
    manifest = make("data", {"train/rows": bytes(20 * 2**20), "train/more": b"2"})
    path = f"attempts/{manifest.key}/{manifest.attempt}/train/rows"
    flip(store, path, 18 * 2**20)
    artifact = store.open(manifest.ref("train"))
    uri = store.objects.uri(path)
    with pytest.raises(CorruptArtifact, match=f"{uri}: corrupt: sha256 is .*restore it"):
        artifact.read_bytes("rows")
    with pytest.raises(CorruptArtifact, match=uri):
        artifact.download(tmp_path)
    assert artifact.read_bytes("more") == b"2"
    store.objects.delete([path])
    with pytest.raises(CorruptArtifact, match=f"{uri}: corrupt: .*gone"):
        artifact.read_bytes("rows")


def test_any_changed_byte_of_a_manifest_is_caught(store: Store, make: Make) -> None:
    manifest = make("data", {"rows": b"1"}, recipe={"seed": 3}, provenance=Provenance(commit="abc"))
    path = manifest_path(manifest.key)
    whole = store.objects.get(path)
    for at in range(0, len(whole), 7):
        flip(store, path, at)
        with pytest.raises(CorruptArtifact, match=store.objects.uri(path)):
            store.manifest(manifest.key)
        store.objects.put(path, whole)
    assert store.manifest(manifest.key) == manifest


def test_opening_what_is_not_there_says_so(store: Store, make: Make) -> None:
    manifest = make("data", {"train/rows": b"1"})
    ref = manifest.ref("train")
    with pytest.raises(CorruptArtifact, match=store.uri(manifest.key, "train")):
        store.open(ref.model_copy(update={"digest": "sha256:0"}))
    with pytest.raises(ValueError, match="no such artifact"):
        store.open(ref.model_copy(update={"key": "0" * 64}))
    with pytest.raises(ValueError, match=r"no one file 'absent'; it has \['rows'\]"):
        store.open(ref).read_bytes("absent")


def test_an_artifact_is_found_by_uri_key_or_node(store: Store, make: Make) -> None:
    make("data", {"rows": b"1"}, recipe={"seed": 0}, provenance=Provenance(ended="2026-01-01"))
    newest = make("data", {"train/rows": b"2"}, recipe={"seed": 1}, provenance=Provenance(ended="2026-01-02"))
    for text in ("data", newest.key, newest.key[:12], store.uri(newest.key), store.uri(newest.key) + "/"):
        assert store.find(text) == newest.ref()
    for text in ("data:train", store.uri(newest.key, "train"), f"{newest.key[:9]}:train"):
        assert store.find(text) == newest.ref("train")
    for text in ("sft", "s3://elsewhere/stages/x"):
        with pytest.raises(ValueError, match=text):
            store.find(text)


def test_a_file_enters_once_by_its_content(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("rows")
    (tmp_path / "b.jsonl").write_text("rows")
    ref = store.ingest(tmp_path / "a.jsonl")
    written = store.objects.list("raw/")
    assert store.ingest(tmp_path / "b.jsonl") == ref
    assert store.objects.list("raw/") == written
    assert store.open(ref).read_bytes() == b"rows"
    flip(store, f"raw/{ref.key}")
    with pytest.raises(CorruptArtifact, match=f"raw/{ref.key}"):
        store.open(ref).read_bytes()
    with pytest.raises(ValueError, match=r"absent\.jsonl: no such file"):
        store.ingest(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../b", "model/pytorch_model.bin"])
def test_paths_that_do_not_belong_are_refused(store: Store, path: str) -> None:
    with pytest.raises(ValueError, match=r"path|safetensors"):
        store.begin("0" * 64).write_bytes(path, b"")


def test_rounds_commit_in_order_and_once(store: Store) -> None:
    key = "1" * 64
    assert store.last_round(key) is None
    for number in range(3):
        attempt = store.begin(key)
        attempt.write_bytes("model/weights", str(number).encode())
        assert store.commit_round(key, number, attempt, {"seen": list(range(number))})
    assert not store.commit_round(key, 2, store.begin(key), {})
    with pytest.raises(ValueError, match="round 4 is not committed"):
        store.commit_round(key, 5, store.begin(key), {})
    rounds = store.rounds(key)
    assert [(record.number, record.state) for record in rounds] == [
        (0, {"seen": []}),
        (1, {"seen": [0]}),
        (2, {"seen": [0, 1]}),
    ]
    assert store.last_round(key) == rounds[-1]
    assert store.open_round(rounds[1]).read_bytes("model/weights") == b"1"
    flip(store, f"rounds/{key}/000002.json", 30)
    with pytest.raises(CorruptArtifact, match=r"000002\.json"):
        store.last_round(key)


def test_a_finished_stage_is_known_in_milliseconds(store: Store, make: Make) -> None:
    data = make("data", {f"train/{number}": b"1" for number in range(40)})
    job = Job(node="data", kind="data", version=1, recipe={})
    seconds = []
    for _ in range(9):
        started = time.perf_counter()
        assert store.manifest(job.key) == data
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[4] < 0.1


def test_a_job_survives_the_store(store: Store, make: Make) -> None:
    data = make("data", {"train/rows": b"1"})
    job = Job(node="sft", kind="sft", version=1, recipe={"lr": 1e-4}, inputs={"data": data.ref("train")})
    assert store.job(store.put_job(job)) == job
    for uri in (store.objects.uri("jobs/none/none.json"), "s3://elsewhere/jobs/x.json"):
        with pytest.raises(ValueError, match=uri):
            store.job(uri)
