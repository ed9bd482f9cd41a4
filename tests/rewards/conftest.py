"""Processes that compare answers, and a sandbox: one of each for all tests of this folder."""

import os
import shutil
from collections.abc import Iterator

import pytest

from k15.engines.sandbox.client import Sandbox
from k15.recipes.pipeline import Resources
from k15.rewards.pool import ComparisonPool
from stages.rewards import open_sandbox


@pytest.fixture(scope="session")
def equivalence() -> Iterator[ComparisonPool]:
    with ComparisonPool(1) as pool:
        yield pool


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    if os.geteuid() != 0 or not shutil.which("crun"):
        pytest.skip("crun slots need root, and apt-get install -y --no-install-recommends crun")
    with open_sandbox(Resources(cores=2), tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox
