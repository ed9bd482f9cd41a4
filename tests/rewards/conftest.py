"""Processes that compare answers, and a sandbox: one of each for all tests of this folder."""

from collections.abc import Iterator

import pytest

from k15.engines.sandbox.client import Sandbox
from k15.rewards.pool import ComparisonPool
from tests.sandboxes import crun_sandbox


@pytest.fixture(scope="session")
def equivalence() -> Iterator[ComparisonPool]:
    with ComparisonPool(1) as pool:
        yield pool


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with crun_sandbox(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox
