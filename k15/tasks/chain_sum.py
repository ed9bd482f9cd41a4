"""reasoning-gym's chain_sum: sums and differences of whole numbers, worked from left to right."""

import re
from typing import Any

from k15.tasks.problem import Step

MAX_CARRIES = 6


def steps(entry: dict[str, Any]) -> tuple[Step, ...]:
    """One step for each operator."""
    terms = _terms(entry)
    total = terms[0]
    worked = []
    for term in terms[1:]:
        sign = "+" if term >= 0 else "-"
        worked.append(Step(left=f"{total} {sign} {abs(term)}", value=total + term, shift=-term))
        total += term
    return tuple(worked)


def difficulty(entry: dict[str, Any]) -> float:
    """0 for a sum of digits; of 8 points, one for each carry, negative result, further digit or term."""
    points = 0
    for step in steps(entry):
        left, _, right = step.left.split(" ")
        points += _carries(int(left), step.value - int(left)) + (step.value < 0)
        points += len(right) - 1
    return min(1.0, (points + len(_terms(entry)) - 2) / 8)


def _terms(entry: dict[str, Any]) -> list[int]:
    expression = entry["metadata"]["expression"]
    return [int(term.replace(" ", "")) for term in re.findall(r"(?:^-?|[+-] )\d+", expression)]


def _carries(left: int, term: int) -> int:
    """Columns that carry or borrow when `term` is added to `left`."""
    if (left < 0) != (term < 0):
        large, small = max(abs(left), abs(term)), min(abs(left), abs(term))
        return sum(large % 10**k < small % 10**k for k in range(1, len(str(large)) + 1))
    return sum(abs(left) % 10**k + abs(term) % 10**k >= 10**k for k in range(1, len(str(abs(left))) + 1))
