"""A finished run in a real store, and the command line pointed at it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from k15.cli.main import main
from k15.store.artifact import Store
from k15.store.runs import RunRecord
from tests.finished_run import write_finished_run
from tests.s3 import S3Server, s3_server


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, parsed."""
        assert self.code in (0, 1), self.err
        return json.loads(self.out)


K15 = Callable[..., Ran]


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The session's S3 server."""
    with s3_server(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def finished_environment(seaweed: S3Server) -> dict[str, str]:
    """Variables that name the store of the finished run."""
    return seaweed.environment | {"K15_S3_PREFIX": "finished"}


@pytest.fixture(scope="session")
def finished(finished_environment: dict[str, str]) -> tuple[Store, RunRecord]:
    """A run like the tiny pipeline's; tests only read it."""
    store = Store.from_environment(finished_environment)
    return store, write_finished_run(store, rounds=6)


@pytest.fixture
def use_store(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Point the process's environment at a store, and at no Prefect and no MLflow that answers."""

    def use(environment: dict[str, str]) -> None:
        away = {"PREFECT_API_URL": "http://127.0.0.1:1/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
        for name, value in (environment | away).items():
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture
def k15(capsys: pytest.CaptureFixture[str]) -> K15:
    """The command, in this process."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = main(arguments)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return run


@pytest.fixture
def on_finished(
    k15: K15,
    use_store: Callable[[dict[str, str]], None],
    finished_environment: dict[str, str],
    finished: tuple[Store, RunRecord],
) -> K15:
    """The command on the store of the finished run."""
    assert finished[1].done
    use_store(finished_environment)
    return k15
