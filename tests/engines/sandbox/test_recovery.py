"""Deaths of slots and of the service, a full queue, the end: a verdict or a reason each, nothing stays."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest

from k15.engines.sandbox.client import Sandbox, launch_sandbox
from k15.engines.sandbox.settings import SandboxSettings
from k15.engines.service.process import Service
from k15.records import Status
from tests.engines.sandbox.conftest import stdio

pytestmark = pytest.mark.engine

DOUBLE = "print(int(input()) * 2)"


@pytest.fixture
def mortal(isolation: str, tmp_path: Path) -> Iterator[Service]:
    """A service that a test may break, with a queue of four jobs."""
    settings = SandboxSettings(isolation=isolation, slots=2, queue=4)
    with launch_sandbox(settings, log_path=tmp_path / "sandbox.log") as service:
        yield service.wait_ready(deadline_s=60)


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, the nearest first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(
                int(stat.parent.name)
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += below
        waiting += below
    return found


def fork_servers(pid: int) -> list[int]:
    """The first process of each slot of a service."""

    def is_one(pid: int) -> bool:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            spaces = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            return len(spaces) == 2 and b"inside.server" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False

    return [below for below in descendants(pid) if is_one(below)]


def left_of(pid: int) -> list[Path]:
    """Control groups and folders named after a service."""
    return [*Path("/sys/fs/cgroup").glob(f"**/k15-sandbox-{pid}"), *Path("/tmp").glob(f"k15-sandbox-{pid}-*")]


def ends(pids: list[int], deadline_s: float = 10.0) -> bool:
    """Whether all of them are gone in time; zombies count as gone."""

    def runs(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return False

    end_s = time.monotonic() + deadline_s
    while any(runs(pid) for pid in pids):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


def test_slots_killed_at_random_cost_no_verdict(mortal: Service) -> None:
    stop = threading.Event()

    def kill() -> None:
        while not stop.wait(0.4):
            for pid in fork_servers(mortal.process.pid)[:1]:
                os.kill(pid, signal.SIGKILL)

    with Sandbox(mortal.port, mortal.token) as sandbox, ThreadPoolExecutor(4) as threads:
        killer = threading.Thread(target=kill)
        killer.start()
        results = list(threads.map(sandbox.judge, [stdio(DOUBLE, (str(n), str(2 * n))) for n in range(150)]))
        stop.set()
        killer.join()
        assert all(r.status is Status.CORRECT or (r.status is Status.UNJUDGED and r.reason) for r in results)
        assert sum(r.status is Status.CORRECT for r in results) > 100
        assert sandbox.judge(stdio(DOUBLE, ("4", "8"))).status is Status.CORRECT
        assert 'slots_replaced_total{why="lost"}' in sandbox.metrics()


def test_nothing_stays_of_a_service_that_ends(mortal: Service) -> None:
    below = descendants(mortal.process.pid)
    assert below
    assert mortal.stop() == 0
    assert ends(below)
    assert left_of(mortal.process.pid) == []


def test_slots_end_with_a_killed_service_and_the_next_one_sweeps(
    mortal: Service, isolation: str, tmp_path: Path
) -> None:
    below, pid = descendants(mortal.process.pid), mortal.process.pid
    mortal.process.kill()
    mortal.process.wait()
    assert ends(below)
    settings = SandboxSettings(isolation=isolation, slots=1)
    with launch_sandbox(settings, log_path=tmp_path / "next.log") as service:
        service.wait_ready(deadline_s=60)
        assert left_of(pid) == []


def test_a_full_queue_says_when_to_come_again(mortal: Service) -> None:
    slow = stdio("import time; time.sleep(1.5)", ("", ""), ("", ""))
    headers = {"Authorization": f"Bearer {mortal.token}"}
    with Sandbox(mortal.port, mortal.token) as sandbox, ThreadPoolExecutor(4) as threads:
        running = [threads.submit(sandbox.judge, slow) for _ in range(4)]
        while sandbox.health()["jobs"] < 4:
            time.sleep(0.02)
        address = f"http://127.0.0.1:{mortal.port}/jobs"
        answer = httpx.post(address, content=msgspec.json.encode(slow), headers=headers, trust_env=False)
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        hurried = stdio(DOUBLE, ("1", "2"), deadline_s=0.5)
        assert sandbox.judge(hurried).reason == "the sandbox was full until the deadline"
        assert sandbox.judge(stdio(DOUBLE, ("1", "2"))).status is Status.CORRECT  # waits, then is admitted
        assert all(job.result().status is Status.CORRECT for job in running)


def test_admitted_jobs_are_answered_before_the_end(mortal: Service) -> None:
    with Sandbox(mortal.port, mortal.token) as sandbox, ThreadPoolExecutor(1) as threads:
        running = threads.submit(sandbox.judge, stdio("import time; time.sleep(1.0)", ("", "")))
        while sandbox.health()["jobs"] < 1:
            time.sleep(0.02)
        mortal.process.terminate()
        assert running.result().status is Status.CORRECT
        assert mortal.process.wait(10) == 0


@pytest.mark.parametrize("isolation_", ["docker", ""])
def test_an_unknown_wall_is_refused(isolation_: str) -> None:
    with pytest.raises(ValueError, match=r"sandbox: isolation: .*'crun' or 'bubblewrap'"):
        SandboxSettings.parse({"isolation": isolation_}, where="sandbox")
