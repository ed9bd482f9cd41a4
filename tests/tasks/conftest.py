"""One sandbox for all tests of this folder."""

from collections.abc import Iterator

import pytest

from k15.engines.sandbox.client import Sandbox
from tests.sandboxes import crun_sandbox


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with crun_sandbox(tmp_path_factory.mktemp("sandbox")) as sandbox:
        yield sandbox
