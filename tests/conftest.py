"""One local stack (SeaweedFS, Prefect, MLflow) for a whole test session, with data of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from k15.store.local import environment

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def stack_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose stack is up for the session. Nothing of it runs afterwards."""
    root = tmp_path_factory.mktemp("stack")
    plain = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}

    def local(command: str) -> None:
        """As a user's shell runs it: the services belong to no process of the tests."""
        arguments = [sys.executable, "-m", "infra.local", command, "--root", str(root)]
        done = subprocess.run(arguments, cwd=CHECKOUT, env=plain, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        local("up")
        yield root
    finally:
        local("down")


@pytest.fixture(scope="session")
def services(stack_root: Path) -> dict[str, str]:
    """The environment of a process that uses the session's stack."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("K15_", "AWS_", "PREFECT_", "MLFLOW_"))
    }
    return {**kept, **environment(stack_root, {})}
