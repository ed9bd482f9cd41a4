"""The test runner itself: no suite that broke may pass."""

import pytest

from infra.test import exit_code


@pytest.mark.parametrize(
    ("codes", "expected"), [([0, 0, 0], 0), ([0, 1, 0], 1), ([0, -11, 0], 1), ([5, 0, 0], 1), ([0, 0, -9], 1)]
)
def test_the_exit_code_is_zero_only_where_every_suite_passed(codes: list[int], expected: int) -> None:
    assert exit_code(codes) == expected
