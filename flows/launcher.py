"""Start one stage, stream what it prints, end it: here as a process, elsewhere by the same protocol."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from k15.recipes import Resources

TERMINATE_GRACE_S = 20.0  # a stage has 15 s to commit what it holds
POLL_S = 0.02
LEFTOVER_GRACE_S = 2.0  # for what a stage left running when it ended


class Execution(Protocol):
    """One running stage."""

    def lines(self) -> Iterator[str]:
        """What it prints, line by line, until it ends."""

    def wait(self) -> int:
        """Its exit code, negative for the signal that ended it. Nothing of it runs any more on return."""

    def cancel(self) -> None:
        """Ask it to end, insist after a while. Returns when it has ended."""


class Launcher(Protocol):
    """A place where stages run."""

    @property
    def name(self) -> str:
        """How records call it."""

    @property
    def image_digest(self) -> str:
        """Of the image that stages run in, sha256:…; "" where there is none."""

    def start(self, kind: str, job_uri: str, resources: Resources) -> Execution:
        """Start `python -m stages.KIND --job URI` there."""


class ProcessExecution:
    """A stage as a process that leads a session of its own.

    Its standard input is a pipe that only this process holds: when this process dies, even by SIGKILL, the
    stage reads the end of it and ends too (K15_WATCH_STDIN).
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._ended = threading.Event()
        threading.Thread(target=self._reap, name=f"reap-{process.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process that leads the stage's session."""
        return self._process.pid

    def lines(self) -> Iterator[str]:
        """What the stage and its services print."""
        if self._process.stdout is None:
            raise ValueError("this stage was started without a pipe for its output")
        with self._process.stdout as output:
            for line in output:
                yield line.rstrip("\n")

    def wait(self) -> int:
        """The exit code, once the whole process group is gone."""
        self._ended.wait()
        return self._process.returncode

    def cancel(self) -> None:
        """SIGTERM to the group, SIGKILL once the grace is over."""
        self._signal(signal.SIGTERM)
        if not self._ended.wait(TERMINATE_GRACE_S):
            self._signal(signal.SIGKILL)
            self._ended.wait()

    def _reap(self) -> None:
        self._process.wait()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._signal(number) or self._gone_within(LEFTOVER_GRACE_S):
                break
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._ended.set()

    def _gone_within(self, seconds: float) -> bool:
        """Whether the group's last process ended in time."""
        end = time.monotonic() + seconds
        while self._signal(0):
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
        return True

    def _signal(self, number: int) -> bool:
        """Whether anybody of the group was there to get it."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True


@dataclass(frozen=True)
class ProcessLauncher:
    """Stages as child processes of this one: `python -m PACKAGE.KIND` in a checkout."""

    python: Path
    root: Path
    environment: Mapping[str, str]
    package: str = "stages"
    debug: bool = False  # stages show stack traces of bad input, and debug logs
    name: str = "process"

    @property
    def image_digest(self) -> str:
        """Of the image this process itself runs in, where whoever started it says so."""
        return self.environment.get("K15_IMAGE_DIGEST", "")

    def start(self, kind: str, job_uri: str, resources: Resources) -> ProcessExecution:
        """Start the stage; ValueError where its environment was not set up."""
        if not self.python.exists():
            raise ValueError(f"{self.python}: the engine environment is missing; run `make setup`")
        kept = {name: value for name, value in self.environment.items() if not name.startswith("PREFECT_")}
        threads = {"OMP_NUM_THREADS": str(resources.cores)}
        command = [str(self.python), "-u", "-m", f"{self.package}.{kind}", "--job", job_uri]
        process = subprocess.Popen(
            command + ["--debug"] * self.debug,
            cwd=self.root,
            env={**threads, **kept, "K15_WATCH_STDIN": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        return ProcessExecution(process)
