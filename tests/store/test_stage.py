"""The stage contract, on a real stage in a process of its own against a real store."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from k15.store.artifact import Store
from k15.store.gc import gc
from k15.store.job import Context, Job
from k15.store.manifest import Manifest
from tests.s3 import S3Server

pytestmark = pytest.mark.services
Make = Callable[..., Manifest]
Wait = Callable[[Callable[[], bool]], None]
ROOT = Path(__file__).parents[2]
Process = subprocess.Popen[str]


class Stages:
    """Starts the stage under test, and sees that none is left over."""

    def __init__(self, environment: dict[str, str], marks: Path) -> None:
        self.environment = os.environ | environment | {"MARKS": str(marks), "TMPDIR": str(marks.parent)}
        self._marks = marks
        self._started: list[Process] = []

    @property
    def marks(self) -> list[str]:
        """What the stages have told so far."""
        return self._marks.read_text().splitlines() if self._marks.exists() else []

    def start(self, job: str, *flags: str, **environment: str) -> Process:
        """A running stage with its stdin held open."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.stage_under_test", "--job", job, *flags],
            cwd=ROOT,
            env=self.environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, job: str, *flags: str, **environment: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a stage."""
        return self.end(self.start(job, *flags, **environment))

    def end(self, process: Process) -> tuple[int, str, str]:
        """Wait for a stage to end."""
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def kill(self) -> None:
        """Leave none."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


@pytest.fixture
def stages(s3_environment: dict[str, str], tmp_path: Path) -> Iterator[Stages]:
    """A way to run the stage under test."""
    made = Stages(s3_environment, tmp_path / "marks")
    yield made
    made.kill()


def scratch_folders(stages: Stages) -> list[Path]:
    """What stages hold, or left, of local disk."""
    return list(Path(stages.environment["TMPDIR"]).glob("k15-stage*"))


def counting(inputs: Manifest | None = None, **recipe: Any) -> Job:
    """A job of the stage under test."""
    refs = {"data": inputs.ref()} if inputs else {}
    values = {"rounds": 3, "pause_s": 0.0, "what": "count"} | recipe
    return Job(node="count", kind="counting", version=1, recipe=values, inputs=refs)


def test_a_stage_runs_once_and_is_cached_from_then_on(store: Store, stages: Stages, make: Make) -> None:
    data = make("data", {"start": b"10"})
    job = counting(data).model_copy(update={"context": Context(run_id="r1", commit="abc")})
    uri = store.put_job(job)
    code, out, err = stages.run(uri)
    assert (code, err) == (0, "")
    assert f"stage key={job.key} status=done" in out
    assert "progress done=3 total=3 what=rounds" in out
    manifest = store.manifest(job.key)
    assert manifest is not None
    assert manifest.summary == {"total": 13}
    assert (manifest.provenance.run_id, manifest.provenance.commit) == ("r1", "abc")
    artifact = store.open_manifest(manifest)
    assert artifact.read_json("result/total.json") == 13
    rows = [json.loads(line) for line in artifact.read_bytes("metrics.jsonl").splitlines()]
    assert rows[-1] == {"step": 2, "total": 13.0}
    code, out, err = stages.run(uri)
    assert (code, err) == (0, "")
    assert f"stage key={job.key} status=cached" in out
    assert stages.marks == ["round 0", "round 1", "round 2"]
    assert scratch_folders(stages) == []


def test_a_job_may_leave_defaults_out(store: Store, stages: Stages, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"node": "count", "kind": "counting", "version": 1, "recipe": {"rounds": 1}}')
    assert stages.run(str(path))[0] == 0
    assert store.manifest(counting(rounds=1).key) is not None


def refused(stages: Stages, uri: str, message: str, **environment: str) -> None:
    """The stage ends with code 2 and one message without a trace."""
    code, out, err = stages.run(uri, **environment)
    assert code == 2, out + err
    assert "Traceback" not in out + err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert stages.environment["AWS_SECRET_ACCESS_KEY"] not in out + err


def test_bad_jobs_are_refused(store: Store, stages: Stages, tmp_path: Path) -> None:
    wrong_key = counting().model_copy(update={"recipe": {"rouds": 1}})
    refused(stages, store.put_job(wrong_key), "recipe: rouds: unknown key")
    old = counting().model_copy(update={"version": 2})
    refused(stages, store.put_job(old), "counting version 2, this is counting version 1")
    refused(stages, str(tmp_path / "absent.json"), "absent.json: no such file")
    refused(stages, store.objects.uri("jobs/a/b.json"), "jobs/a/b.json: no such job")
    (tmp_path / "broken.json").write_text("{")
    refused(stages, str(tmp_path / "broken.json"), "broken.json: not valid JSON")
    assert store.manifests() == []


def test_a_store_that_does_not_serve_is_refused(store: Store, stages: Stages) -> None:
    uri = store.put_job(counting())
    refused(stages, uri, "http://127.0.0.1:9: no answer", K15_S3_ENDPOINT="http://127.0.0.1:9")
    refused(stages, uri, "check AWS_ACCESS_KEY_ID", AWS_SECRET_ACCESS_KEY="wrong")
    refused(stages, uri, "K15_S3_ENDPOINT", K15_S3_ENDPOINT="")
    assert store.manifests() == []


def test_bad_input_commits_nothing(store: Store, stages: Stages, make: Make) -> None:
    data = make("data", {"start": b"10"})
    jobs = {what: counting(data, what=what) for what in ("bad_input", "disk_full")}
    refused(stages, store.put_job(jobs["bad_input"]), "the data set is empty; give it rows")
    refused(stages, store.put_job(jobs["disk_full"]), "no space left; free some")
    spoilt = store.put_job(counting(data, what="spoilt"))
    refused(stages, spoilt, "step 3: the loss is nan; examples data/t.parquet row 7 tokens 0:9")
    damaged = counting(data)
    path = f"attempts/{data.key}/{data.attempt}/start"
    store.objects.put(path, b"11")
    refused(stages, store.put_job(damaged), f"{store.objects.uri(path)}: corrupt")
    assert store.manifests() == [data]
    code, _, err = stages.run(store.put_job(jobs["bad_input"]), "--debug")
    assert code == 2
    assert "Traceback" in err


@pytest.mark.parametrize(("what", "message"), [("fault", "the engine broke"), ("diverge", "not finite")])
def test_a_fault_is_exit_code_1_and_commits_nothing(
    store: Store, stages: Stages, what: str, message: str
) -> None:
    code, _, err = stages.run(store.put_job(counting(what=what)))
    assert code == 1
    assert "Traceback" in err
    assert message in err
    assert store.manifests() == []


def test_sigterm_leaves_a_stage_resumable(store: Store, stages: Stages, wait_for: Wait) -> None:
    job = counting(rounds=6, pause_s=0.4)
    uri = store.put_job(job)
    process = stages.start(uri)
    wait_for(lambda: len(stages.marks) == 3)
    process.send_signal(signal.SIGTERM)
    code, _, err = stages.end(process)
    assert (code, err.count("\n")) == (1, 1)
    assert "stopped by SIGTERM" in err
    assert store.manifest(job.key) is None
    committed = len(store.rounds(job.key))
    assert committed == len(stages.marks) < 6
    assert stages.run(uri)[0] == 0
    assert stages.marks == [f"round {number}" for number in range(6)]
    epochs = [record.epoch for record in store.rounds(job.key)]
    assert epochs == [1] * committed + [2] * (6 - committed)
    manifest = store.manifest(job.key)
    assert manifest is not None
    assert manifest.summary == {"total": 15}


def test_sigkill_repeats_the_interrupted_round_only(store: Store, stages: Stages, wait_for: Wait) -> None:
    job = counting(rounds=4, pause_s=0.6)
    uri = store.put_job(job)
    process = stages.start(uri)
    wait_for(lambda: len(stages.marks) == 2)
    process.kill()
    assert stages.end(process)[0] == -signal.SIGKILL
    assert store.manifest(job.key) is None
    assert len(scratch_folders(stages)) == 1
    begun, committed = len(stages.marks), len(store.rounds(job.key))
    assert begun - committed <= 1
    assert stages.run(uri)[0] == 0
    assert stages.marks == [f"round {number}" for number in [*range(begun), *range(committed, 4)]]
    assert scratch_folders(stages) == []
    gc(store, grace_s=-5)
    assert {info.path.split("/")[2] for info in store.objects.list("attempts/")} == {
        manifest.attempt for manifest in store.manifests()
    }


def test_two_at_once_do_the_work_once(store: Store, stages: Stages) -> None:
    uri = store.put_job(counting(rounds=3, pause_s=0.5))
    results = [stages.end(process) for process in [stages.start(uri), stages.start(uri)]]
    assert [code for code, _, _ in results] == [0, 0]
    assert sorted("status=cached" in out for _, out, _ in results) == [False, True]
    assert stages.marks == ["round 0", "round 1", "round 2"]


def test_a_stage_and_its_children_end_with_the_parent(store: Store, stages: Stages, wait_for: Wait) -> None:
    process = stages.start(store.put_job(counting(what="deaf")), K15_WATCH_STDIN="1")
    wait_for(lambda: len(stages.marks) == 1)
    child = Path("/proc") / stages.marks[0].removeprefix("child ")
    assert child.exists()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 1
    wait_for(lambda: not child.exists())


def test_a_store_that_dies_under_a_stage_is_a_fault(
    own_s3_server: S3Server, tmp_path: Path, wait_for: Wait
) -> None:
    stages = Stages(own_s3_server.environment, tmp_path / "marks")
    store = Store.from_environment(own_s3_server.environment)
    job = counting(what="upload", rounds=1)
    uri = store.put_job(job)
    process = stages.start(uri)
    wait_for(lambda: stages.marks == ["waiting"])
    own_s3_server.kill()
    code, _, err = stages.end(process)
    assert code == 1
    assert "the store went away while the stage ran" in err
    own_s3_server.start()
    assert store.manifest(job.key) is None
    assert stages.run(uri)[0] == 0
    stages.kill()
