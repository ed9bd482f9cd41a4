"""The process launcher: lines as they come, exit codes, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flows.launcher import ProcessLauncher
from k15.recipes import Resources
from tests.flows.driver import ROOT, wait_for

pytestmark = pytest.mark.control


def launcher() -> ProcessLauncher:
    return ProcessLauncher(Path(sys.executable), ROOT, dict(os.environ), package="tests.flows.stages")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_stage_that_ends_takes_its_children_along() -> None:
    execution = launcher().start("orphan", "s3://none", Resources())
    lines = list(execution.lines())
    assert execution.wait() == 3
    found = re.fullmatch(r"child pid=(\d+) says deaf", lines[-1])
    assert found is not None, lines
    assert not is_alive(int(found[1]))


def test_cancel_ends_a_running_stage() -> None:
    execution = launcher().start("sleeper", "s3://none", Resources())
    lines = execution.lines()
    assert next(lines) == "sleeps"
    execution.cancel()
    assert execution.wait() == -signal.SIGTERM
    assert list(lines) == []


def test_a_missing_environment_names_the_remedy() -> None:
    missing = ProcessLauncher(Path("/nowhere/python"), ROOT, {})
    with pytest.raises(ValueError, match="make setup"):
        missing.start("sleeper", "s3://none", Resources())


def test_the_death_of_the_launching_process_ends_the_stage() -> None:
    script = (
        "from tests.flows.test_launcher import *\n"
        "execution = launcher().start('sleeper', 's3://none', Resources())\n"
        "print(execution.pid, next(execution.lines()), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    pid, said = done.stdout.split()
    assert said == "sleeps"
    wait_for(lambda: not is_alive(int(pid)), "the end of the stage", timeout_s=10)
