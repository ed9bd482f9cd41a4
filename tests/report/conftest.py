"""A finished run in a real store, and the facts a report takes from it."""

from collections.abc import Iterator

import pytest

from k15.report.facts import RunFacts, collect
from k15.store.artifact import Store
from tests.finished_run import write_finished_run
from tests.s3 import S3Server, s3_server


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The session's S3 server."""
    with s3_server(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def store(seaweed: S3Server) -> Store:
    """The store of the finished run; tests only read it."""
    return Store.from_environment(seaweed.environment | {"K15_S3_PREFIX": "report"})


@pytest.fixture(scope="session")
def run_facts(store: Store) -> RunFacts:
    """The facts of a run like the tiny pipeline's."""
    return collect(store, write_finished_run(store, rounds=12))
