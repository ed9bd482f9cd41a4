"""One whole run of the micro pipeline for the session, under a prefix of its own; the faults build on it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from mlflow import MlflowClient

from k15.store.artifact import Store
from k15.store.local import read_state
from tests.e2e.driver import MICRO, ROOT, Cli, wait_for

WHOLE_RUN_LIMIT_S = 900


@pytest.fixture(scope="session")
def cli(services: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line against the session's stack."""
    folder = tmp_path_factory.mktemp("e2e")
    env = {**services, "K15_S3_PREFIX": f"e2e-{uuid4().hex[:8]}", "K15_OUT": str(folder / "out")}
    return Cli(env, folder / "runs.log")


@pytest.fixture(scope="session")
def store(cli: Cli) -> Store:
    """The store those runs write to."""
    return Store.from_environment(cli.env)


@pytest.fixture(scope="session")
def whole_run(cli: Cli) -> Path:
    """The micro recipe, run once to its end."""
    done = cli.run("run", MICRO, timeout_s=WHOLE_RUN_LIMIT_S)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return Path(MICRO)


@pytest.fixture(scope="session")
def trunk(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recipe up to RL, whose upstream is done."""
    upstream, _, _ = (ROOT / whole_run).read_text().partition("[nodes.short]")
    path = tmp_path_factory.mktemp("trunk") / "pipeline.toml"
    path.write_text(upstream.replace('final = "short"', 'final = "rl"'))
    return path


@pytest.fixture
def mlflow_client(services: dict[str, str]) -> MlflowClient:
    """A client of the session's MLflow server."""
    return MlflowClient(services["MLFLOW_TRACKING_URI"])


@pytest.fixture
def kill_s3(stack_root: Path, store: Store) -> Callable[[], None]:
    """SIGKILL the S3 server, then bring the stack up again as a user does."""

    def kill() -> None:
        service = read_state(stack_root).services["s3"]
        os.kill(service.pid, signal.SIGKILL)
        plain = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        command = [sys.executable, "-m", "infra.local", "up", "--root", str(stack_root)]
        subprocess.run(command, cwd=ROOT, env=plain, check=True, capture_output=True)
        wait_for(lambda: store.objects.list("stages/") != [], "the S3 server")

    return kill
