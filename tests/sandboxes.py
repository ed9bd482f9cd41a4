"""A real sandbox for the tests of a folder."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from k15.engines.sandbox.client import Sandbox
from k15.recipes.pipeline import Resources
from stages.rewards import open_sandbox


@contextmanager
def crun_sandbox(scratch: Path) -> Iterator[Sandbox]:
    """Two slots; the test is skipped where this machine cannot have them."""
    if os.geteuid() != 0 or not shutil.which("crun"):
        pytest.skip("crun slots need root, and apt-get install -y --no-install-recommends crun")
    with open_sandbox(Resources(cores=2), scratch) as sandbox:
        yield sandbox
