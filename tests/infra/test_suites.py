"""The test runner itself: no suite that broke may pass."""

from pathlib import Path

import pytest

from infra.test import SUITES, exit_code


@pytest.mark.parametrize(
    ("codes", "expected"), [([0, 0, 0], 0), ([0, 1, 0], 1), ([0, -11, 0], 1), ([5, 0, 0], 1), ([0, 0, -9], 1)]
)
def test_the_exit_code_is_zero_only_where_every_suite_passed(codes: list[int], expected: int) -> None:
    assert exit_code(codes) == expected


def test_every_folder_of_tests_is_in_a_suite() -> None:
    root = Path(__file__).parents[1]
    folders = {path.relative_to(root).parts[0] for path in root.rglob("test_*.py")}
    taken = {path.split("/")[0] for _, paths, _ in SUITES.values() for path in paths.split()}
    assert folders == taken
