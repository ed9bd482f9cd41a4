# environment: engine
"""Cases a second through the sandbox service, and through `docker run`, by turns on this machine.

    make bench NAME=sandbox

Needs root, crun, and docker.io for the comparison (`apt-get install -y crun docker.io`).
A case reads a number and prints its double, in Python, 16 callers at once: one job of one case each, over
HTTP, its output compared. cases_per_s and p99_ms are of the turn in the middle by rate; times_docker is its
rate over that of `docker run --rm --network none --memory --pids-limit` for the same program (the best of its
turns). CPU is what the whole machine was busy with, over the cases: on a busy machine it is too high.
overhead_alone_ms is what the service adds to a case of a single caller. Writes out/bench/sandbox.json.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from k15.engines.sandbox.client import Sandbox, launch_sandbox
from k15.engines.sandbox.settings import SandboxSettings
from k15.programs import Case, Job
from k15.records import Status

CALLERS = 16
TURNS = 3
NUM_CASES, NUM_CONTAINERS, NUM_ALONE = 3000, 48, 200
PROGRAM = "print(int(input()) * 2)"
TICKS_PER_S = 100
DOCKER_S = 30.0
Row = dict[str, float]


def busy_s() -> float:
    """CPU seconds this machine has spent on anything."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICKS_PER_S  # all but idle and iowait


def turn(case: Callable[[int], None], num_cases: int, callers: int) -> Row:
    """`case` so many times from so many threads."""
    latencies: list[float] = []

    def timed(number: int) -> None:
        began_s = time.perf_counter()
        case(number)
        latencies.append(time.perf_counter() - began_s)

    with ThreadPoolExecutor(callers) as threads:
        began_s, busy = time.perf_counter(), busy_s()
        list(threads.map(timed, range(num_cases)))
        seconds, busy = time.perf_counter() - began_s, busy_s() - busy
    latencies.sort()
    return {
        "cases_per_s": num_cases / seconds,
        "p50_ms": median(latencies) * 1e3,
        "p99_ms": latencies[int(0.99 * num_cases)] * 1e3,
        "cpu_ms": busy / num_cases * 1e3,
    }


def warm(folder: Path) -> tuple[list[Row], Row, float]:
    """Turns at CALLERS at once, one of a single caller, and the median wall time inside a slot in ms."""
    inside: list[float] = []
    with launch_sandbox(SandboxSettings(), log_path=folder / "sandbox.log") as service:
        service.wait_ready(deadline_s=60)
        with Sandbox(service.port, service.token) as sandbox:

            def case(number: int) -> None:
                tests = (Case(stdin=str(number), expected=str(2 * number)),)
                result = sandbox.judge(Job("python", PROGRAM, "stdio", tests))
                if result.status is not Status.CORRECT:
                    raise RuntimeError(f"case {number}: {result}")
                inside.append(result.cases[0].wall_s * 1e3)

            turn(case, NUM_CASES // 10, CALLERS)
            turns = [turn(case, NUM_CASES, CALLERS) for _ in range(TURNS)]
            inside.clear()
            return turns, turn(case, NUM_ALONE, 1), median(inside)


@contextmanager
def docker(folder: Path) -> Iterator[list[str]]:
    """A Docker daemon of its own; gives the command up to the image's name."""
    host = f"unix://{folder}/docker.sock"
    daemon = ["dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--host", host]
    daemon += ["--pidfile", f"{folder}/pid", "--bridge", "none", "--iptables=false"]
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(daemon, stdout=log, stderr=log)
    client = ["docker", "--host", host]
    try:
        end_s = time.monotonic() + DOCKER_S
        while subprocess.run([*client, "info"], capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError((folder / "dockerd.log").read_text()[-1000:])
            time.sleep(0.2)
        image = folder / "image.tar"
        python_image(image)
        subprocess.run([*client, "import", str(image), "k15-bench"], check=True, capture_output=True)
        limits = ["--network", "none", "--memory", "256m", "--pids-limit", "64"]
        yield [
            *client,
            "run",
            "--rm",
            "--interactive",
            *limits,
            "k15-bench",
            "/usr/bin/python3",
            "-c",
            PROGRAM,
        ]
    finally:
        process.terminate()
        process.wait()


def python_image(path: Path) -> None:
    """The host's /usr/bin/python3, its library and what it is linked to, as a tar."""
    python = Path("/usr/bin/python3").resolve()
    linked = subprocess.run(["ldd", str(python)], check=True, capture_output=True, text=True).stdout.split()
    with tarfile.open(path, "w") as tar:
        tar.add(python, "usr/bin/python3")
        tar.add(f"/usr/lib/{python.name}", f"usr/lib/{python.name}")
        for library in {word for word in linked if word.startswith("/")}:
            tar.add(Path(library).resolve(), library.lstrip("/"))


def cold(folder: Path) -> list[Row]:
    """Turns of `docker run` per case, CALLERS at once."""
    with docker(folder) as command:

        def case(number: int) -> None:
            done = subprocess.run(command, input=str(number), capture_output=True, text=True, check=True)
            if done.stdout.split() != [str(2 * number)]:
                raise RuntimeError(f"docker gave {done.stdout!r} {done.stderr!r}")

        turn(case, CALLERS, CALLERS)
        return [turn(case, NUM_CONTAINERS, CALLERS) for _ in range(2)]


def main() -> int:
    """Measure, print, write."""
    if not shutil.which("dockerd"):
        print("bench: dockerd is missing: apt-get install -y docker.io", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="k15-bench-") as name:
        folder = Path(name)
        turns, alone, inside_ms = warm(folder)
        containers = cold(folder)
    chosen = sorted(turns, key=lambda row: row["cases_per_s"])[TURNS // 2]
    best = max(containers, key=lambda row: row["cases_per_s"])
    found = {
        "cases_per_s": chosen["cases_per_s"],
        "p50_ms": chosen["p50_ms"],
        "p99_ms": chosen["p99_ms"],
        "cpu_ms": chosen["cpu_ms"],
        "times_docker": chosen["cases_per_s"] / best["cases_per_s"],
        "alone_p50_ms": alone["p50_ms"],
        "overhead_alone_ms": alone["p50_ms"] - inside_ms,
        "docker_cases_per_s": best["cases_per_s"],
        "docker_cpu_ms": best["cpu_ms"],
        "turns": turns,
        "docker_turns": containers,
    }
    Path("out/bench").mkdir(parents=True, exist_ok=True)
    Path("out/bench/sandbox.json").write_text(json.dumps(found, indent=2) + "\n")
    for key, value in found.items():
        print(f"{key:20} {value:9.1f}" if isinstance(value, float) else f"{key:20} {json.dumps(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
