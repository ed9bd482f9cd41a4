"""Mutants: one change each, by the operators that are printed, and nothing else."""

import pytest

from tests.mutants import OPERATORS, mutants

pytestmark = pytest.mark.engine


def made(program: str, **options: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in OPERATORS}
    for mutant in mutants(program, **options):
        found[mutant.operator].append(mutant.program)
    return found


@pytest.mark.parametrize(
    ("program", "operator", "expected"),
    [
        ("a < b != c", "comparison", ["a >= b != c", "a < b == c"]),
        ("a in b", "comparison", ["a not in b"]),
        ("a * b", "arithmetic", ["a + b"]),
        ("a //= b", "arithmetic", ["a *= b"]),
        ("a and (not b)", "boolean", ["a or not b", "a and b"]),
        ("a = True", "boolean", ["a = False"]),
        ("a <= b", "off by one", ["a < b"]),
        ("a[b:c]", "off by one", ["a[b + 1:c]", "a[b:c + 1]"]),
        ("a[b]", "off by one", ["a[b + 1]"]),
        ("range(a, b)", "off by one", ["range(a + 1, b)", "range(a, b + 1)"]),
        ("a = 1.5", "constant", ["a = 2.5"]),
        ("a = 'b'", "constant", ["a = 'bx'"]),
        ("a = None", "constant", []),
        ("f(a, b, c)", "swapped arguments", ["f(b, a, c)", "f(a, c, b)"]),
        ("f(a, a)", "swapped arguments", []),
    ],
)
def test_operators(program: str, operator: str, expected: list[str]) -> None:
    assert made(program)[operator] == expected


def test_documentation_and_annotations_stay_and_lines_above_too() -> None:
    program = 'def f(a: List[1], b=2) -> "x":\n    """Sum."""\n    return a[0] + b\n'
    texts = [mutant.program for mutant in mutants(program)]
    assert len(texts) == len(set(texts)) == 4
    assert all('"""Sum."""' in text and "a: List[1]" in text and "-> 'x'" in text for text in texts)
    assert len(list(mutants(program, after_line=2))) == 3
