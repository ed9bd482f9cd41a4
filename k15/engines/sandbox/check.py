"""Whether what a program gave is what was expected. In the service: no slot holds an expected output."""

import json
import math
from collections.abc import Callable
from typing import Any

RELATIVE = 1e-7  # of floats in calls, beside the job's absolute tolerance


def same_output(checker: str, expected: str, actual: str, tolerance: float) -> bool:
    """Whether `actual` is accepted by a checker of CHECKERS."""
    return CHECKERS[checker](expected, actual, tolerance)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _numbers(expected: str, actual: str, tolerance: float) -> bool:
    """Tokens equal, or both finite numbers within the tolerance, absolute or relative."""
    wanted, given = expected.split(), actual.split()
    return len(wanted) == len(given) and all(
        a == b or _close(a, b, tolerance) for a, b in zip(wanted, given, strict=True)
    )


def _close(a: str, b: str, tolerance: float) -> bool:
    try:
        return math.isclose(float(a), float(b), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False


CHECKERS: dict[str, Callable[[str, str, float], bool]] = {
    "tokens": lambda expected, actual, _: expected.split() == actual.split(),
    "lines": lambda expected, actual, _: _lines(expected) == _lines(actual),
    "exact": lambda expected, actual, _: expected == actual,
    "numbers": _numbers,
}


def accepted_value(comparison: str, expected: Any, actual: Any, tolerance: float) -> bool:
    """Whether the value tree `actual` is accepted by a comparison of COMPARISONS."""
    return COMPARISONS[comparison](expected, actual, tolerance)


def same_value(expected: Any, actual: Any, tolerance: float) -> bool:
    """Whether two value trees stand for equal Python values; floats within `tolerance`, absolute.

    Compares the trees, never builds the values: a hostile answer costs what its text costs.
    """
    if not _is_tagged(expected) or not _is_tagged(actual):
        return _same_scalar(expected, actual, tolerance)
    tag, wanted, given = expected["tag"], expected["of"], actual["of"]
    if tag != actual["tag"]:
        return {tag, actual["tag"]} <= {"int", "float"} and _same_scalar(expected, actual, tolerance)
    if tag in ("int", "float"):
        return _same_scalar(expected, actual, tolerance)
    if not isinstance(wanted, list) or not isinstance(given, list):
        return bool(wanted == given)
    if len(wanted) != len(given):
        return False
    if tag in ("set", "frozenset", "dict"):
        wanted, given = sorted(wanted, key=_order), sorted(given, key=_order)
    if tag == "dict":
        return all(
            same_value(a[0], b[0], 0.0) and same_value(a[1], b[1], tolerance)
            for a, b in zip(wanted, given, strict=True)
        )
    return all(same_value(a, b, tolerance) for a, b in zip(wanted, given, strict=True))


def _is_tagged(tree: Any) -> bool:
    return isinstance(tree, dict) and "tag" in tree and "of" in tree


def _same_scalar(expected: Any, actual: Any, tolerance: float) -> bool:
    a, b = _number(expected), _number(actual)
    if a is None or b is None:
        return type(expected) is type(actual) and bool(expected == actual)
    if isinstance(a, float) or isinstance(b, float):
        try:
            both_nan = math.isnan(a) and math.isnan(b)
            return both_nan or math.isclose(a, b, rel_tol=RELATIVE, abs_tol=tolerance)
        except OverflowError:
            return False
    return a == b


def _number(tree: Any) -> int | float | None:
    """The number a tree stands for; truth values are numbers, as in Python."""
    if isinstance(tree, int | float):
        return tree
    if _is_tagged(tree) and tree["tag"] in ("int", "float") and isinstance(tree["of"], str):
        try:
            return int(tree["of"], 16) if tree["tag"] == "int" else float(tree["of"])
        except ValueError:
            return None
    return None


def _order(tree: Any) -> str:
    """A key that puts equal members at equal places (1, 1.0 and True alike); of a pair its first."""
    if isinstance(tree, list) and len(tree) == 2:
        tree = tree[0]
    number = _number(tree)
    if number is not None:
        whole = isinstance(number, float) and number.is_integer()
        return f"n{int(number) if whole or isinstance(number, bool) else number!r:}"
    if _is_tagged(tree) and isinstance(tree["of"], list):
        return f"t{tree['tag']}{[_order(item) for item in tree['of']]}"
    return f"j{json.dumps(tree, sort_keys=True)}"


def _same_members(expected: Any, actual: Any, tolerance: float) -> bool:
    """Whether two containers have the same members, however often and in whatever order."""
    if not (_is_tagged(expected) and _is_tagged(actual)) or {expected["tag"], actual["tag"]} - CONTAINERS:
        return False
    wanted, given = (
        list({_order(item): item for item in tree["of"]}.values()) for tree in (expected, actual)
    )
    return same_value({"tag": "set", "of": wanted}, {"tag": "set", "of": given}, tolerance)


def _present(expected: Any, actual: Any, _: float) -> bool:
    """Whether `actual` is the truth value expected or, where it is none, there is a value as expected."""
    return bool((actual if isinstance(actual, bool) else actual is not None) == expected)


def _any_of(expected: Any, actual: Any, tolerance: float) -> bool:
    """Whether `actual` equals a member of `expected`, a list or a tuple."""
    return any(same_value(member, actual, tolerance) for member in expected["of"])


CONTAINERS = {"list", "tuple", "set", "frozenset", "deque", "iterator"}
COMPARISONS: dict[str, Callable[[Any, Any, float], bool]] = {
    "equal": same_value,
    "members": _same_members,
    "presence": _present,
    "any": _any_of,
}
