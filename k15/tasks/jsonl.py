"""A user's own questions: JSON lines with `question` and `answer`, as GSM8K publishes them.

Where an answer has a `#### ` line, what follows is the reference and the text before it is a demonstration.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from k15.rewards.answer import MARK
from k15.tasks.problem import Problem

CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K's annotations for a calculator
HARD_LINES = 8


def problems(lines: Iterable[str], *, where: str, task: str) -> Iterator[Problem]:
    """The problem of each line that is not blank; ValueError names `where`, the line and the field."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _problem(_row(line, f"{where}: line {number}"), f"{where}: line {number}", task)


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error}); write one object a line") from None
    if not isinstance(row, dict):
        raise ValueError(f'{where}: not an object; write {{"question": …, "answer": …}}')
    return row


def _problem(row: dict[str, Any], where: str, task: str) -> Problem:
    question, text = _text(row, "question", where), _text(row, "answer", where)
    solution, mark, reference = text.rpartition(MARK.strip())
    reference = reference.strip() if mark else text
    if not reference:
        raise ValueError(f"{where}: answer: nothing after {MARK.strip()}; state the reference there")
    solution = CALCULATION.sub("", solution).strip()
    return Problem(
        question=question,
        answer=re.sub(r"(?<=\d),(?=\d{3})", "", reference),
        task=task,
        difficulty=min(1.0, solution.count("\n") / HARD_LINES),
        reward="math",
        solution=solution,
    )


def _text(row: dict[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        problem = "missing" if field not in row else "no text"
        raise ValueError(f"{where}: {field}: {problem}; every line needs one")
    return value.strip()
