"""Programming problems in JSON lines, in the formats they are published in; the fields of a row say which.

| published as           | fields                                                                            |
|------------------------|-----------------------------------------------------------------------------------|
| HumanEval              | `prompt`, `entry_point`, `canonical_solution`, `test`                             |
| HumanEval+ (and Mini)  | `prompt`, `entry_point`, `canonical_solution`, `base_input`, `plus_input`, `atol` |
| MBPP+                  | the same, and `assertion`                                                         |
| MBPP                   | `text`, `code`, `test_list`; `test_setup_code`, `challenge_test_list`             |

The + formats publish inputs and no outputs: those are what the published solution answers
(k15.tasks.solutions), and rows whose question has several right answers are compared as EvalPlus does
(evalplus/eval/_special_oracle.py).
"""

import builtins
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from k15.programs import Call, Case, Comparison, Suite
from k15.rewards.code import PROGRAM
from k15.tasks.arguments import numbers_as_text, published_arguments, typed
from k15.tasks.jsonl import parsed
from k15.tasks.problem import Problem
from k15.values import encode

LANGUAGE = "python"
DEFINED = re.compile(r"^def (\w+)\(", re.MULTILINE)
ASK = "Answer with one Python program, in a fenced block."
SOLUTION = "canonical_solution"
QUOTES = "\"'"
HARD_LINES = 20
FLOAT_TOLERANCE = 1e-6  # absolute, where a row states none
COMPARED: dict[str, Comparison] = {
    **dict.fromkeys(
        ("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"), "members"
    ),
    **dict.fromkeys(("larg_nnum", "intersection_array", "find_dissimilar", "Diff"), "members"),
    **dict.fromkeys(("check_str", "text_match_three", "text_starta_endb"), "presence"),
}
# Another reading of the question: a function of the same name, whose answers are right too.
ALTERNATIVES = {
    "surface_Area": """
def surface_Area(base_edge, height):
    slant_height = ((base_edge / 2) ** 2 + height**2) ** 0.5
    return round(base_edge**2 + 2 * base_edge * slant_height)
""",
    "digit_distance_nums": """
def digit_distance_nums(one, other):
    width = max(len(str(one)), len(str(other)))
    return sum(abs(int(a) - int(b)) for a, b in zip(str(one).zfill(width), str(other).zfill(width)))
""",
}
# Any root is right.
ROOTS = """
def value(coefficients, x):
    return sum(coefficient * x**power for power, coefficient in enumerate(coefficients))

for (coefficients,) in {inputs!r}:
    assert abs(value(coefficients, find_zero(coefficients))) <= {tolerance!r}
"""


@dataclass(frozen=True, slots=True)
class Draft:
    """A problem with its published solution; of calls, the values that are expected are not known yet."""

    where: str  # file, line, and the solution's field
    question: str
    program: str  # the published solution, whole
    task: str
    suite: Suite
    num_base: int = 0  # calls of the original benchmark; those after them are EvalPlus's
    alternative: str = ""

    def problem(self, suite: Suite) -> Problem:
        """The problem, with `suite` as its reference."""
        return Problem(
            question=self.question,
            answer=suite.to_json(),
            task=self.task,
            difficulty=min(1.0, self.program.strip().count("\n") / HARD_LINES),
            reward="code",
            metadata=json.dumps({PROGRAM: self.program}),
            program=self.program,
        )


def holds_code(lines: Iterable[str]) -> bool:
    """Whether the first line that is not blank is of one of the formats above."""
    first = next((line for line in lines if line.strip()), "{}")
    try:
        row = json.loads(first)
    except json.JSONDecodeError:
        return False
    return isinstance(row, dict) and not FORMATS.keys().isdisjoint(row)


def drafts(lines: Iterable[str], *, where: str, task: str) -> Iterator[Draft]:
    """The problem of each line that is not blank; ValueError names `where`, the line and the field."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{where}: line {number}"
            yield _draft(parsed(line, place), place, task)


def _draft(row: dict[str, Any], where: str, task: str) -> Draft:
    make = next((make for field, make in FORMATS.items() if field in row), None)
    if make is None:
        raise ValueError(
            f"{where}: none of the fields {', '.join(FORMATS)}: no format of a programming problem"
        )
    return make(row, where, task)


def _mbpp(row: dict[str, Any], where: str, task: str) -> Draft:
    tests = [*_list(row, "test_list", where), *row.get("challenge_test_list", [])]
    if not all(isinstance(test, str) for test in tests):
        raise ValueError(f"{where}: test_list, challenge_test_list: not all are text")
    source = "\n".join([row.get("test_setup_code", ""), *tests])
    shown = "\n".join(row["test_list"])
    question = f"{_text(row, 'text', where)}\nIt must pass these tests:\n{shown}\n\n{ASK}"
    program = _text(row, "code", where).replace("\r\n", "\n")
    names = (name for name in DEFINED.findall(program) if hasattr(builtins, name))
    like_pythons = next((name for name in names if f"assert {name}(" in source), "")
    suite = Suite(LANGUAGE, "asserts", (Case(tests=source),), like_pythons)
    return Draft(f"{where}: code", question, program, task, suite)


def _humaneval(row: dict[str, Any], where: str, task: str) -> Draft:
    question, program, prompt = _completion(row, where)
    tests = f"{_text(row, 'test', where)}\ncheck({_function(row, where)})\n"
    suite = Suite(LANGUAGE, "asserts", (Case(tests=tests),), preamble=prompt)
    return Draft(f"{where}: {SOLUTION}", question, program, task, suite)


def _humaneval_plus(row: dict[str, Any], where: str, task: str) -> Draft:
    question, program, prompt = _completion(row, where)
    if _function(row, where) == "find_zero":
        inputs = [tuple(arguments) for arguments in [*_list(row, "base_input", where), *row["plus_input"]]]
        tests = ROOTS.format(inputs=inputs, tolerance=_tolerance(row, where))
        suite = Suite(LANGUAGE, "asserts", (Case(tests=tests),), preamble=prompt)
        return Draft(f"{where}: {SOLUTION}", question, program, task, suite)
    return Draft(
        f"{where}: {SOLUTION}", question, program, task, _calls(row, prompt, where), len(row["base_input"])
    )


def _mbpp_plus(row: dict[str, Any], where: str, task: str) -> Draft:
    function = _function(row, where)
    question = f"{_text(row, 'prompt', where).strip().strip(QUOTES).strip()}\n\n{ASK}"
    program = _text(row, SOLUTION, where).strip("\n") + "\n"
    suite = _calls(row, "", where)
    return Draft(
        f"{where}: {SOLUTION}",
        question,
        program,
        task,
        suite,
        len(row["base_input"]),
        ALTERNATIVES.get(function, ""),
    )


FORMATS: dict[str, Callable[[dict[str, Any], str, str], Draft]] = {
    "test_list": _mbpp,
    "test": _humaneval,
    "assertion": _mbpp_plus,
    "base_input": _humaneval_plus,
}  # by a field that the formats above it have not


def _completion(row: dict[str, Any], where: str) -> tuple[str, str, str]:
    """Question, published program, and the head of a program that the question gives."""
    prompt = _text(row, "prompt", where)
    program = prompt + _text(row, SOLUTION, where)
    return f"Complete this function.\n\n```{LANGUAGE}\n{prompt.strip()}\n```\n\n{ASK}", program, prompt


def _calls(row: dict[str, Any], preamble: str, where: str) -> Suite:
    """The calls of a row, base inputs first; what they give is not known yet."""
    inputs = _list(row, "base_input", where)
    more = _list(row, "plus_input", where) if row.get("plus_input") else []
    function = _function(row, where)
    comparison = COMPARED.get(function, "equal") if "assertion" in row else "equal"
    try:
        published = published_arguments(row.get("assertion", ""), function)
        calls = tuple(
            Call(encode(typed(arguments, published, as_text)), None, False, comparison)
            for part in (inputs, more)
            for as_text in [numbers_as_text(part, published)]
            for arguments in part
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: base_input, plus_input, assertion: {error}") from None
    case = Case(calls=calls)
    tolerance = _tolerance(row, where)
    return Suite(LANGUAGE, "calls", (case,), function, tolerance=tolerance, preamble=preamble)


def _function(row: dict[str, Any], where: str) -> str:
    name = _text(row, "entry_point", where)
    if not name.isidentifier():
        raise ValueError(f"{where}: entry_point: {name!r} is no name of a function")
    return name


def _tolerance(row: dict[str, Any], where: str) -> float:
    value = row.get("atol") or FLOAT_TOLERANCE
    if not isinstance(value, int | float) or value < 0:
        raise ValueError(f"{where}: atol: {value!r} is no number from 0 on")
    return float(value)


def _text(row: dict[str, Any], field: str, where: str) -> str:
    """As it is: indentation matters."""
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: {field}: {'missing' if field not in row else 'no text'}; a row needs one")
    return value


def _list(row: dict[str, Any], field: str, where: str) -> list[Any]:
    value = row.get(field)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: {field}: {'missing' if field not in row else 'no list, or empty'}")
    return value
