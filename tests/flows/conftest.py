"""The flow over quick stages, one store prefix for all tests of a module."""

from pathlib import Path
from uuid import uuid4

import pytest

from tests.flows.driver import Flow


@pytest.fixture(scope="module")
def flow(services: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Flow:
    orders: Path = tmp_path_factory.mktemp("orders")
    prefix = f"flows-{uuid4().hex[:8]}"
    own = {"K15_S3_PREFIX": prefix, "K15_TEST_ORDERS": str(orders), "K15_OUT": str(orders / "out")}
    return Flow({**services, **own}, orders)
