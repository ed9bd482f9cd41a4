"""Setting up: what the disk refuses is one line with its remedy."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.setup import in_background

ROOT = Path(__file__).parents[2]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "infra").mkdir()
    shutil.copy(ROOT / "infra" / "setup.py", tmp_path / "infra")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "containers" / "locks", tmp_path / "containers" / "locks")
    (tmp_path / ".venv").touch()
    command = [sys.executable, str(tmp_path / "infra" / "setup.py"), "control"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"setup: {tmp_path}/.venv: File exists; ")
    assert len(done.stderr.splitlines()) == 1


def test_what_fails_in_the_background_is_told_in_front() -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    wait = in_background(full)
    with pytest.raises(OSError, match="No space"):
        wait()
