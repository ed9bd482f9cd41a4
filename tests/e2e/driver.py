"""Drive the command line as a user does, and find what a run left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
MICRO = "tests/e2e/micro.toml"


@dataclass(frozen=True)
class Cli:
    """The command `k15` against one stack and one prefix of the bucket."""

    env: Mapping[str, str]
    log: Path

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command; its output is added to the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command(*arguments), cwd=ROOT, env=dict(self.env), stdout=log, stderr=log
            )

    def run(self, *arguments: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self._command(*arguments),
            cwd=ROOT,
            env=dict(self.env),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def json(self, *arguments: str) -> object:
        """The JSON a command prints."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    @staticmethod
    def _command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "k15.cli.main", *arguments]

    def processes(self, module: str = "") -> list[psutil.Process]:
        """Live processes of runs with this prefix whose command line holds `module`."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("K15_S3_PREFIX") == self.env["K15_S3_PREFIX"]
                if (
                    mine
                    and module in " ".join(process.cmdline())
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return [process for process in found if process.pid != os.getpid()]

    @contextmanager
    def held(self, module: str) -> Iterator[None]:
        """SIGSTOP every process that runs `module`; those still alive afterwards go on."""
        stopped = self.processes(module)
        for process in stopped:
            process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def kill(self, module: str) -> None:
        """SIGKILL the one process that runs `module`."""
        wait_for(lambda: bool(self.processes(module)), f"a process of {module}")
        for process in self.processes(module):
            process.send_signal(signal.SIGKILL)


def wait_for(
    condition: Callable[[], bool], what: str, *, timeout_s: float = 240, every_s: float = 0.2
) -> None:
    """Return once the condition holds; AssertionError names what never came."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s} s"
        time.sleep(every_s)
