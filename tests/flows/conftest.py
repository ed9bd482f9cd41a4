"""The flow over quick stages, one store prefix for all tests of a module."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.dockerd import Daemon, daemon, load_image
from tests.flows.driver import Flow


@pytest.fixture(scope="module")
def flow(services: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Flow:
    orders: Path = tmp_path_factory.mktemp("orders")
    prefix = f"flows-{uuid4().hex[:8]}"
    own = {"K15_S3_PREFIX": prefix, "K15_TEST_ORDERS": str(orders), "K15_OUT": str(orders / "out")}
    return Flow({**services, **own}, orders)


@pytest.fixture(scope="session")
def docker_daemon() -> Iterator[Daemon]:
    """A daemon of our own that has the tests' image."""
    with daemon() as started:
        load_image(started.client())
        yield started
