"""Demonstrations: how a problem is answered in each style.

RL can choose between strategies only where the demonstrations differ in theirs.
Every response states its answer in a line `#### 57`, as GSM8K publishes its own, or its program in a block.
"""

from collections.abc import Callable
from random import Random

from k15.tasks.problem import Problem, Step

REFLECTION = "Wait. Let me look again. Is that right? I think so. Yes."
MAX_REFLECTIONS = 8
MAX_CHECKS = 2
MAX_SLIPS = 2
SLIP_RATE = 0.15
SLIPS = (-10, -2, -1, 1, 2, 10)

Style = Callable[[Problem, Random], str]


def direct(problem: Problem, random: Random) -> str:  # noqa: ARG001 (one signature for all styles)
    """The answer alone."""
    return problem.stated


def short(problem: Problem, random: Random) -> str:
    """The steps, then the answer."""
    return "\n".join([*_work(problem), direct(problem, random)])


def given(problem: Problem, random: Random) -> str:
    """The solution as its data set gives it, then the answer."""
    if not problem.solution and not problem.program:
        raise ValueError(f"style given: task {problem.task} has no solutions of its own; use direct or short")
    return "\n".join([*_work(problem), direct(problem, random)])


def reflective(problem: Problem, random: Random) -> str:
    """The steps and the answer, then 0 to 6 times a fixed doubt about it: length that changes no answer."""
    return "\n".join([short(problem, random), *[REFLECTION] * random.randint(0, MAX_REFLECTIONS)])


def checked(problem: Problem, random: Random) -> str:
    """The steps, each with slips found and corrected now and then, and checked 0 to 2 times."""
    if not problem.steps:
        raise ValueError(f"style checked: task {problem.task} has no worked steps; use given or short")
    lines: list[str] = []
    for step in problem.steps:
        lines += _checked_step(step, random)
    return "\n".join([*lines, direct(problem, random)])


STYLES: dict[str, Style] = {
    "direct": direct,
    "short": short,
    "given": given,
    "reflective": reflective,
    "checked": checked,
}


def _work(problem: Problem) -> list[str]:
    if problem.solution:
        return [problem.solution]
    return [step.line() for step in problem.steps]


def _checked_step(step: Step, random: Random) -> list[str]:
    lines: list[str] = []
    for _ in range(MAX_SLIPS):
        if random.random() >= SLIP_RATE:
            break
        wrong = step.value + random.choice(SLIPS)
        lines += [step.line(wrong), f"Check: {step.check(wrong)}. No."]
    lines.append(step.line())
    lines += [f"Check: {step.check()}. Yes."] * random.randint(0, MAX_CHECKS)
    return lines
