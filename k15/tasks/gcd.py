"""reasoning-gym's gcd: greatest common divisors of two numbers, worked by Euclid's remainders."""

from typing import Any

from k15.tasks.problem import Step


def steps(entry: dict[str, Any]) -> tuple[Step, ...]:
    """Remainders, larger by smaller, until one is 0; the answer is the last divisor."""
    numbers = entry["metadata"]["numbers"]
    worked = []
    divisor = numbers[0]
    for number in numbers[1:]:
        large, small = max(divisor, number), min(divisor, number)
        while small:
            quotient, remainder = divmod(large, small)
            worked.append(Step(left=f"{large} % {small}", value=remainder, shift=quotient * small))
            large, small = small, remainder
        divisor = large
    return tuple(worked)


def difficulty(entry: dict[str, Any]) -> float:
    """0 where one remainder shows it; 1 from six remainders on."""
    return min(1.0, (len(steps(entry)) - 1) / 5)
