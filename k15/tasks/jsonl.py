"""Questions in JSON lines, in the formats they are published in; the fields of a row say which one it is.

| format   | fields                                         | published as                                 |
|----------|------------------------------------------------|----------------------------------------------|
| question | `question`, `answer`                           | GSM8K; AIME 2025 (opencompass); a user's own |
| problem  | `problem`, `answer`; `solution`, `level` (1–5) | MATH-500 and AIME 2024 (HuggingFaceH4)       |
| Problem  | `Problem`, `Answer`; `Solution`                | AIME 2024 (Maxwell-Jia)                      |

Where an answer has a `#### ` line, what follows is the reference and the text before it is the solution.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from k15.ports import Equivalence, Reward
from k15.records import Status, Verdict
from k15.rewards import judge_all
from k15.rewards.answer import MARK, last_answer
from k15.tasks.corpus import prompt
from k15.tasks.problem import Problem

CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K's annotations for a calculator
HARD_LINES = 8
HARDEST_LEVEL = 5
NAMED = 3  # rows that an error names


class Format(NamedTuple):
    """The names of a format's fields; the last two may be missing in a row."""

    question: str
    answer: str
    solution: str
    level: str = ""


FORMATS = (
    Format("question", "answer", "solution"),
    Format("problem", "answer", "solution", "level"),
    Format("Problem", "Answer", "Solution"),
)


class Row(NamedTuple):
    """A problem with the response that its data set publishes, and where it was read."""

    problem: Problem
    gold: str
    where: str  # file, line, and the answer's field


def problems(lines: Iterable[str], *, where: str, task: str) -> Iterator[Problem]:
    """The problem of each line that is not blank; ValueError names `where`, the line and the field."""
    return (row.problem for row in rows(lines, where=where, task=task))


def rows(lines: Iterable[str], *, where: str, task: str) -> Iterator[Row]:
    """As `problems`, with the published responses."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _row(parsed(line, f"{where}: line {number}"), f"{where}: line {number}", task)


def check_references(rows: Iterable[Row], equivalence: Equivalence) -> None:
    """ValueError names the rows whose reference no answer could be compared with."""
    pairs = ((row, equivalence.refusal(row.problem.answer)) for row in rows)
    refused = [f"{row.where}: {row.problem.answer[:80]!r}: {reason}" for row, reason in pairs if reason]
    if refused:
        raise ValueError(
            f"{'; '.join(refused[:NAMED])} ({len(refused)} rows in all): the grader cannot compare"
            " answers with this; correct or remove these rows"
        )


def self_check(rows: Iterable[Row], judge: Reward) -> list[tuple[Row, Verdict]]:
    """The rows whose published response the grader does not accept; of a sound data set and grader none."""
    posed = list(rows)
    verdicts = judge_all(judge, [(prompt(row.problem), row.gold) for row in posed])
    return [pair for pair in zip(posed, verdicts, strict=True) if pair[1].status is not Status.CORRECT]


def parsed(line: str, where: str) -> dict[str, Any]:
    """The object of a line; ValueError names `where`."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error}); write one object a line") from None
    if not isinstance(row, dict):
        raise ValueError(f'{where}: not an object; write {{"question": …, "answer": …}}')
    return row


def _row(row: dict[str, Any], where: str, task: str) -> Row:
    fields = next((fields for fields in FORMATS if fields.question in row), FORMATS[0])
    question, text = _text(row, fields.question, where), _text(row, fields.answer, where)
    solution, mark, reference = text.rpartition(MARK.strip())
    reference = reference.strip() if mark else text
    if not reference:
        raise ValueError(f"{where}: {fields.answer}: nothing after {MARK.strip()}; state the reference there")
    given = _text(row, fields.solution, where) if row.get(fields.solution) else ""
    solution = CALCULATION.sub("", solution).strip() or given
    problem = Problem(
        question=question,
        answer=re.sub(r"(?<=\d),(?=\d{3})", "", reference) if mark else reference,
        task=task,
        difficulty=_difficulty(row, fields, where, solution),
        reward="math",
        solution=solution,
    )
    gold = text if mark else given if last_answer(given) else f"{given}\n{MARK}{reference}"
    return Row(problem, gold, f"{where}: {fields.answer}")


def _difficulty(row: dict[str, Any], fields: Format, where: str, solution: str) -> float:
    """By its level where it has one, otherwise by the lines of its solution."""
    if fields.level not in row:
        return min(1.0, solution.count("\n") / HARD_LINES)
    level = str(row[fields.level]).removeprefix("Level ")
    if not level.isdecimal() or not 1 <= int(level) <= HARDEST_LEVEL:
        raise ValueError(f"{where}: {fields.level}: {level!r}; it must be 1 to {HARDEST_LEVEL}")
    return (int(level) - 1) / (HARDEST_LEVEL - 1)


def _text(row: dict[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        problem = "missing" if field not in row else "no text"
        raise ValueError(f"{where}: {field}: {problem}; every line needs one")
    return value.strip()
