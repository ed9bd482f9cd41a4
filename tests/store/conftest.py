"""One SeaweedFS for the session, a store with a prefix of its own for each test, and small artifacts."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest

from k15.store.artifact import Store
from k15.store.job import Job
from k15.store.manifest import InputRef, Manifest, Provenance
from tests.s3 import S3Server, s3_server

Make = Callable[..., Manifest]


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The session's S3 server."""
    with s3_server(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def s3_environment(seaweed: S3Server) -> dict[str, str]:
    """Variables that name a store nobody else uses."""
    return seaweed.environment | {"K15_S3_PREFIX": f"test/{uuid4()}"}


@pytest.fixture
def store(s3_environment: dict[str, str]) -> Store:
    """An empty store."""
    return Store.from_environment(s3_environment)


@pytest.fixture
def own_s3_server(tmp_path: Path) -> Iterator[S3Server]:
    """An S3 server that a test may kill."""
    with s3_server(tmp_path / "seaweed") as server:
        yield server


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds; fail the test after half a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.05)

    return wait


@pytest.fixture
def make(store: Store) -> Make:
    """Run a stage in name only: commit `files` as the result of a job."""

    def commit(
        node: str,
        files: Mapping[str, bytes],
        *,
        kind: str = "data",
        recipe: Mapping[str, object] | None = None,
        inputs: Mapping[str, InputRef] | None = None,
        provenance: Provenance | None = None,
    ) -> Manifest:
        job = Job(node=node, kind=kind, version=1, recipe=dict(recipe or {}), inputs=dict(inputs or {}))
        attempt = store.begin(job.key)
        for path, data in files.items():
            attempt.write_bytes(path, data)
        return store.commit(attempt, job, provenance or Provenance(), {})

    return commit
