"""Programs as answers: what a response states, and its verdict by a real sandbox."""

import json
from collections.abc import Sequence

import pytest

from k15.engines.sandbox.client import Sandbox
from k15.loops.voting import answer_classes
from k15.ports import RewardPorts
from k15.programs import Call, Case, Limits, Suite
from k15.records import Part, Prompt, Status
from k15.rewards import judging, statement
from k15.rewards.program import fenced, last_program
from k15.values import encode

pytestmark = pytest.mark.engine

DOUBLE = "def double(x):\n    return 2 * x"
READ = "print(2 * int(input()))"


def calls(*pairs: tuple[Sequence[object], object], **options: object) -> Suite:
    made = tuple(Call(encode(tuple(arguments)), encode(expected)) for arguments, expected in pairs)
    return Suite("python", "calls", (Case(calls=made),), "double", **options)  # type: ignore[arg-type]


CALLS = calls(([2], 4), (["ab"], "abab"))
ASSERTS = Suite("python", "asserts", (Case(tests="assert double(2) == 4\nassert double('a') == 'aa'"),))
STDIO = Suite("python", "stdio", (Case(stdin="2\n", expected="4\n"), Case(stdin="-1\n", expected="-2\n")))


def posed(suite: Suite, **metadata: object) -> Prompt:
    parts = (Part("text", "Write double."),)
    return Prompt("p", parts, suite.to_json(), "t", 0.5, "code", json.dumps(metadata))


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```", "a\n"),
        ("So:\n```python\na\n```\nor better\n```python\nb\n```\ndone", "b\n"),
        ("```Python title=x\na\n```", "a\n"),
        ("```py\r\na\r\n```\r\n", "a\r\n"),
        ("~~~python\na\n~~~", "a\n"),
        ("````python\na\n```\nb\n````", "a\n```\nb\n"),
        ("  ```python\na\n  ```", "a\n"),
        ("```\na\n```", "a\n"),
        ("```python\na\n```\n```\nits output\n```", "a\n"),
        ("```python\na\n```\n```text\nits output\n```", "a\n"),
        ("```\na\n```\n```cpp\nb\n```", "a\n"),
        ("```cpp\nb\n```", None),
        ("```text\nb\n```", None),
        ("```python\na\n```\n```python\nb", None),
        ("```python\n```", ""),
        ("def double(x): return 2 * x", None),
        ("`a` and ``b``", None),
        ("", None),
    ],
)
def test_the_last_program(text: str, program: str | None) -> None:
    assert last_program(text, "python") == program


def test_a_program_is_read_back_from_its_own_response() -> None:
    for program in (DOUBLE, 'x = """\n```\n"""', "# ````"):
        assert last_program(f"Thus\n{fenced(program, 'python')}", "python") == program + "\n"
    assert last_program(fenced("int main(){}", "cpp"), "c++") is None
    assert last_program("```C++\nint main(){}\n```", "cpp") == "int main(){}\n"


def test_a_long_response_is_read_in_linear_time() -> None:
    assert last_program("```python\n" * 200_000, "python") is None
    assert last_program("`" * 1_000_000, "python") is None


@pytest.mark.parametrize("suite", [CALLS, ASSERTS, STDIO], ids=["calls", "asserts", "stdio"])
@pytest.mark.parametrize(
    ("changed", "status"), [(("2 * ", "2 * "), Status.CORRECT), (("2 * ", "3 * "), Status.WRONG)]
)
def test_tests_of_every_style(
    sandbox: Sandbox, suite: Suite, changed: tuple[str, str], status: Status
) -> None:
    judge = judging({"code"}, RewardPorts(sandbox=sandbox))
    program = (READ if suite.style == "stdio" else DOUBLE).replace(*changed)
    verdict = judge(posed(suite), f"Doubling is easy.\n\n{fenced(program, 'python')}\n")
    assert verdict.status is status, verdict.reason
    assert bool(verdict.reason) == (status is Status.WRONG)


def test_what_the_program_did_is_said(sandbox: Sandbox) -> None:
    judge = judging({"code"}, RewardPorts(sandbox=sandbox))
    limited = calls(([2], 4), limits=Limits(cpu_s=0.5))
    for program, reason in (
        ("double = lambda x: x", "call 0 gave a wrong value"),
        ("def double(x): return 1 / 0", "call 0 raised ZeroDivisionError: division by zero"),
        ("def double(x):\n while 1: pass", "used more than 0.5 s of CPU time"),
        ("triple = 3", "call 0 raised NameError: name 'double' is not defined"),
        ("def double(x)", "SyntaxError"),
    ):
        verdict = judge(posed(limited), fenced(program, "python"))
        assert verdict.status is Status.WRONG
        assert reason in verdict.reason
    assert judge(posed(CALLS), DOUBLE).reason == "no program stated"


def test_what_the_question_gives_need_not_be_repeated(sandbox: Sandbox) -> None:
    judge = judging({"code"}, RewardPorts(sandbox=sandbox))
    suite = calls(([2], 4), preamble='import math\ndef two(): return 2\ndef double(x):\n    """Twice x."""')
    whole = "from __future__ import annotations\ndef double(x: Any) -> Any: return two() * x * math.ceil(0.5)"
    assert judge(posed(suite), fenced(whole, "python")).status is Status.CORRECT
    assert judge(posed(suite), fenced("", "python")).status is Status.WRONG


def test_comparisons_of_calls(sandbox: Sandbox) -> None:
    judge = judging({"code"}, RewardPorts(sandbox=sandbox))

    def status(comparison: str, expected: object, given: str, tolerance: float = 0.0) -> Status:
        call = Call(encode((1,)), encode(expected), comparison=comparison)  # type: ignore[arg-type]
        suite = Suite("python", "calls", (Case(calls=(call,)),), "double", tolerance=tolerance)
        return judge(posed(suite), fenced(f"import re\ndef double(x): return {given}", "python")).status

    right, wrong = Status.CORRECT, Status.WRONG
    assert status("equal", (1, 2), "[1, 2]") is wrong
    assert status("members", (1, 2), "[2, 1, 2]") is right
    assert status("members", (1, 2), "{2: 1, 1: 1}.keys()") is right
    assert status("members", (1, 2), "[2]") is wrong
    assert status("members", (1, 2), "12") is wrong
    assert status("presence", True, "re.match('a', 'a')") is right
    assert status("presence", False, "re.match('a', 'b')") is right
    assert status("presence", False, "re.match('a', 'a')") is wrong
    assert status("presence", True, "False") is wrong
    assert status("any", [1, "one"], "'one'") is right
    assert status("any", [1, "one"], "2") is wrong
    assert status("any", [1.0], "1.001", tolerance=0.01) is right


def test_what_cannot_be_judged_is_unjudged_with_its_reason(sandbox: Sandbox) -> None:
    judge = judging({"code"}, RewardPorts(sandbox=sandbox))
    response = fenced(DOUBLE, "python")
    for suite, reason in (
        (Suite("python", "calls", (), "double"), "cases: there are none"),
        (Suite("python", "asserts", (Case(tests="double("),)), r"cases[0].tests: no Python"),
        (Suite("python", "calls", (Case(calls=(Call(encode((1,)), 2, comparison="any"),)),), "f"), "any"),
    ):
        verdict = judge(posed(suite), response)
        assert verdict.status is Status.UNJUDGED
        assert reason in verdict.reason
    no_suite = Prompt("p", (Part("text", "?"),), '{"language": "python"}', "t", 0.5, "code")
    assert "no suite of tests: Object missing required field `style`" in judge(no_suite, response).reason
    with Sandbox(1, "nobody listens there") as nowhere:
        down = judging({"code"}, RewardPorts(sandbox=nowhere))(posed(CALLS), response)
    assert (down.status, down.reason) == (Status.UNJUDGED, "the sandbox is down: ConnectError")


def test_a_sandbox_is_needed() -> None:
    with pytest.raises(ValueError, match=r"reward code runs programs .*; give ports\.sandbox"):
        judging({"code"}, RewardPorts())


def test_a_suite_is_read_back() -> None:
    odd = calls(([float("nan"), {1: (2, {3})}, 1 << 80], b"\x00"))
    for suite in (CALLS, ASSERTS, STDIO, odd):
        assert Suite.from_json(suite.to_json()) == suite


def test_programs_are_the_same_answer_where_their_text_is() -> None:
    prompt, judge = posed(CALLS), judging(set(), RewardPorts())  # nothing is judged
    texts = [fenced(DOUBLE, "python"), fenced("a", "python"), "So\n" + fenced("a", "python"), "b", "#### 4"]
    statuses = [Status.CORRECT, *[Status.WRONG] * 4]
    assert answer_classes(prompt, texts, statuses, judge) == [0, 1, 1, None, None]


def test_the_published_program_is_what_a_judge_must_accept() -> None:
    assert statement(posed(CALLS)).published(posed(CALLS)) is None
    prompt = posed(CALLS, program=DOUBLE)
    assert statement(prompt).published(prompt) == fenced(DOUBLE, "python")
