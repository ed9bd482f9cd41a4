"""Processes that compare answers: one pool for all tests of this folder."""

from collections.abc import Iterator

import pytest

from k15.rewards.pool import ComparisonPool


@pytest.fixture(scope="session")
def equivalence() -> Iterator[ComparisonPool]:
    with ComparisonPool(1) as pool:
        yield pool
