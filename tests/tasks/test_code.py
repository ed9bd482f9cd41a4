"""Programming problems in their published formats: rows of our own, with the published fields."""

import json
from random import Random
from typing import Any

import pytest

from k15.engines.sandbox.client import Sandbox
from k15.ports import RewardPorts
from k15.programs import Limits, Suite
from k15.records import Status
from k15.rewards import judging
from k15.rewards.program import fenced
from k15.tasks import code, solutions
from k15.tasks.code import Draft, drafts, holds_code
from k15.tasks.corpus import prompt
from k15.tasks.demonstrations import STYLES
from k15.tasks.jsonl import self_check
from k15.values import decode

pytestmark = pytest.mark.engine

HEAD = 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """The sum."""\n'
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": HEAD,
    "entry_point": "total",
    "canonical_solution": "    return sum(numbers)\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n",
}
HUMANEVAL_PLUS = {
    "task_id": "HumanEval/0",
    "prompt": HEAD,
    "contract": "\n    assert isinstance(numbers, list)\n",
    "canonical_solution": "\n    return sum(numbers)\n",
    "entry_point": "total",
    "base_input": [[[1, 2]], [[]]],
    "plus_input": [[[0.1, 0.2]], [[10**30]]],
    "atol": 0,
}
MBPP_PLUS = {
    "task_id": "Mbpp/1",
    "prompt": '"""\nWrite a function to join two tuples.\nassert join((1, 2), (3,)) == (1, 2, 3)\n"""\n',
    "entry_point": "join",
    "canonical_solution": "\ndef join(one, other):\n  return one + other\n",
    "base_input": [[[1, 2], [3]]],
    "plus_input": [[[], []], [["a"], [None]]],
    "contract": "\n  assert isinstance(one, tuple)\n",
    "assertion": "\nassert join((1, 2), (3,)) == (1, 2, 3)\n",
    "atol": 0,
}
MBPP = {
    "task_id": 1,
    "text": "Write a function that doubles.",
    "code": "def double(x):\r\n  return 2 * x\r\n",
    "test_setup_code": "",
    "test_list": ["assert double(2) == 4", "assert double('a') == 'aa'"],
    "challenge_test_list": ["assert double(0.5) == 1"],
}
ROWS = (HUMANEVAL, HUMANEVAL_PLUS, MBPP_PLUS, MBPP)


def read(*rows: object) -> list[Draft]:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return list(drafts(lines, where="f", task="t"))


def judged(sandbox: Sandbox, row: dict[str, Any], program: str) -> Status:
    (one,) = solutions.rows(solutions.solve(read(row), sandbox))
    judge = judging({"code"}, RewardPorts(sandbox=sandbox))
    return judge(prompt(one.problem), fenced(program, "python")).status


def test_formats_are_told_apart_by_their_fields() -> None:
    humaneval, humaneval_plus, mbpp_plus, mbpp = read(HUMANEVAL, "", *ROWS[1:])
    assert [one.suite.style for one in (humaneval, humaneval_plus, mbpp_plus, mbpp)] == [
        "asserts", "calls", "calls", "asserts",
    ]  # fmt: skip
    assert humaneval.question.startswith(f"Complete this function.\n\n```python\n{HEAD.strip()}\n```\n")
    assert mbpp_plus.question.startswith("Write a function to join two tuples.\nassert join((1, 2), (3,))")
    assert "assert double(2) == 4\nassert double('a')" in mbpp.question
    assert "double(0.5)" not in mbpp.question
    assert (humaneval.suite.preamble, mbpp.suite.preamble) == (HEAD, "")
    assert [one.where for one in (humaneval, humaneval_plus, mbpp)] == [
        "f: line 1: canonical_solution", "f: line 3: canonical_solution", "f: line 5: code",
    ]  # fmt: skip
    for row in ROWS:
        assert holds_code(["", json.dumps(row)])
    assert not holds_code([json.dumps({"question": "1+1?", "answer": "2"})])
    assert not holds_code(["{", "[]"])


def test_arguments_have_the_published_types_and_nothing_is_expected_yet() -> None:
    (draft,) = read(MBPP_PLUS)
    calls = draft.suite.cases[0].calls
    assert [decode(call.arguments) for call in calls] == [((1, 2), (3,)), ((), ()), (("a",), (None,))]
    assert not any(call.checked for call in calls)
    assert draft.num_base == 1


@pytest.mark.parametrize("row", ROWS)
def test_the_published_solution_is_correct_and_another_program_is_not(
    sandbox: Sandbox, row: dict[str, Any]
) -> None:
    solved = solutions.solve(read(row), sandbox)
    assert [one.left_out for one in solved] == [()]
    rows = solutions.rows(solved)
    assert self_check(rows, judging({"code"}, RewardPorts(sandbox=sandbox))) == []
    problem = rows[0].problem
    assert Suite.from_json(problem.answer).limits.cpu_s == 2.0
    assert STYLES["direct"](problem, Random(0)) == STYLES["given"](problem, Random(0))
    for name in ("total", "join", "double"):
        assert judged(sandbox, row, f"def {name}(*arguments):\n    return 4") is Status.WRONG


def test_expected_values_are_what_the_solution_answers(sandbox: Sandbox) -> None:
    (one,) = solutions.rows(solutions.solve(read(HUMANEVAL_PLUS), sandbox))
    calls = Suite.from_json(one.problem.answer).cases[0].calls
    assert [decode(call.expected) for call in calls] == [3, 0, pytest.approx(0.3), 10**30]
    assert judged(sandbox, HUMANEVAL_PLUS, "def total(n):\n    return sum(n) + 1e-9") is Status.CORRECT
    assert judged(sandbox, HUMANEVAL_PLUS, "def total(n):\n    return sum(n) + 1e-3") is Status.WRONG


def test_text_of_digits_stays_text_where_nothing_is_published() -> None:
    row = HUMANEVAL_PLUS | {"canonical_solution": "    return numbers[::-1]\n", "base_input": [["10"]]}
    (draft,) = read(row | {"plus_input": {}})
    assert decode(draft.suite.cases[0].calls[0].arguments) == ("10",)


def test_a_solution_named_like_a_function_of_pythons(sandbox: Sandbox) -> None:
    row = MBPP | {"code": "def sum(x):\n  return -x", "test_list": ["assert sum(2) == -2"]}
    row["challenge_test_list"] = []
    assert judged(sandbox, row, row["code"]) is Status.CORRECT


def test_rows_with_several_right_answers(sandbox: Sandbox) -> None:
    as_set = MBPP_PLUS | {
        "entry_point": "Diff",
        "canonical_solution": "def Diff(one, other):\n  return list(set(one) ^ set(other))",
        "assertion": "assert Diff([1, 2], [3]) == [1, 2, 3]",
        "plus_input": [],
    }
    assert judged(sandbox, as_set, "def Diff(a, b): return [3, 2, 1]") is Status.CORRECT
    assert judged(sandbox, as_set, "def Diff(a, b): return [3, 2]") is Status.WRONG
    matched = MBPP_PLUS | {
        "entry_point": "check_str",
        "canonical_solution": "import re\ndef check_str(text):\n  return re.match('[aeiou]', text)",
        "base_input": [["a"], ["b"]],
        "assertion": "assert check_str('a')\nassert not check_str('b')",
        "plus_input": [],
    }
    assert judged(sandbox, matched, "def check_str(text): return text == 'a'") is Status.CORRECT
    assert judged(sandbox, matched, "def check_str(text): return text or None") is Status.WRONG
    two = MBPP_PLUS | {
        "entry_point": "digit_distance_nums",
        "canonical_solution": "def digit_distance_nums(a, b):\n  return sum(map(int, str(abs(a - b))))",
        "base_input": [[123, 256], [-1, 10]],
        "assertion": "assert digit_distance_nums(123, 256) == 7",
        "plus_input": [[25, 7]],
    }
    other = code.ALTERNATIVES["digit_distance_nums"].replace("return", "return -11 + 2 if one < 0 else")
    assert judged(sandbox, two, two["canonical_solution"]) is Status.CORRECT
    assert judged(sandbox, two, other) is Status.WRONG
    right = code.ALTERNATIVES["digit_distance_nums"].replace("return", "return 2 if one < 0 else")
    assert judged(sandbox, two, right) is Status.CORRECT
    root = HUMANEVAL_PLUS | {
        "prompt": 'def find_zero(xs):\n    """A root."""\n',
        "entry_point": "find_zero",
        "canonical_solution": "    return 1.0\n",
        "base_input": [[[-1, 0, 1]]],
        "plus_input": [],
        "atol": 1e-4,
    }
    assert judged(sandbox, root, "def find_zero(xs): return -1.00001") is Status.CORRECT
    assert judged(sandbox, root, "def find_zero(xs): return -1.001") is Status.WRONG


def test_inputs_that_take_or_give_too_much_are_left_out_by_name(sandbox: Sandbox) -> None:
    long = "    return numbers[0] if len(numbers) > 1 else 'x' * sum(numbers)\n"
    row = HUMANEVAL_PLUS | {
        "canonical_solution": long,
        "base_input": [[[1, 2]]],
        "plus_input": [[[5_000_000]], [[1_500_000]], [[1_000_000]], [[10**12]], [[7, 7]]],
    }
    (solved,) = solutions.solve(read(row), sandbox)
    assert [reason.split(": ")[0] for reason in solved.left_out] == ["input 1", "input 2", "input 4"]
    assert "output" in solved.left_out[0]
    assert "its answer has 1500004 characters" in solved.left_out[1]
    assert "MemoryError" in solved.left_out[2]
    (one,) = solutions.rows([solved])
    assert len(Suite.from_json(one.problem.answer).cases[0].calls) == 3
    assert self_check([one], judging({"code"}, RewardPorts(sandbox=sandbox))) == []


def test_a_slow_solution_gives_others_time_too(sandbox: Sandbox) -> None:
    slow = "    import time\n    while time.process_time() < 1: pass\n    return sum(numbers)\n"
    (one,) = solutions.rows(solutions.solve(read(HUMANEVAL_PLUS | {"canonical_solution": slow}), sandbox))
    limits = Suite.from_json(one.problem.answer).limits
    assert limits == Limits(cpu_s=4.0, wall_s=20.0, output_kb=limits.output_kb)


def test_rows_whose_own_solution_fails_are_refused_by_name(sandbox: Sandbox) -> None:
    raising = HUMANEVAL_PLUS | {"canonical_solution": "    return 1 / len(numbers)\n"}
    failing = MBPP | {"test_list": ["assert double(2) == 5"]}
    found = solutions.solve(read(HUMANEVAL, raising, failing), sandbox)
    assert [one.row is None for one in found] == [False, True, True]
    with pytest.raises(
        ValueError,
        match=r"f: line 2: canonical_solution: input 1: call 0 raised ZeroDivisionError.*; f: line 3: code: "
        r"a test failed: (?s:.*)\(2 rows in all\): the published solution does not pass",
    ):
        solutions.rows(found)


def test_a_sandbox_that_is_down_is_no_fault_of_the_rows() -> None:
    down = "could not be run: the sandbox is down"
    with Sandbox(1, "nobody listens") as nowhere, pytest.raises(ConnectionError, match=down):
        solutions.solve(read(HUMANEVAL), nowhere)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "f: line 2: not JSON"),
        ({"question": "a"}, "f: line 2: none of the fields test_list, test, assertion, base_input"),
        (HUMANEVAL | {"prompt": " "}, "f: line 2: prompt: no text"),
        (HUMANEVAL | {"entry_point": "a b"}, "f: line 2: entry_point: 'a b' is no name of a function"),
        ({k: v for k, v in HUMANEVAL.items() if k != "canonical_solution"}, "canonical_solution: missing"),
        (HUMANEVAL_PLUS | {"base_input": []}, "f: line 2: base_input: no list, or empty"),
        (HUMANEVAL_PLUS | {"base_input": [3]}, "f: line 2: base_input, plus_input, assertion: "),
        (HUMANEVAL_PLUS | {"atol": "small"}, "f: line 2: atol: 'small'"),
        (
            MBPP_PLUS | {"assertion": "assert join("},
            "f: line 2: base_input, plus_input, assertion: no Python",
        ),
        (MBPP | {"test_list": [1]}, "f: line 2: test_list, challenge_test_list: not all are text"),
        (MBPP | {"code": None}, "f: line 2: code: no text"),
    ],
)
def test_a_bad_line_is_named(row: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(HUMANEVAL, row)
