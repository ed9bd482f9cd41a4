"""Jobs of every style through a real service: verdicts, limits, refusals."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from k15.engines.sandbox.client import Sandbox
from k15.engines.sandbox.languages import LANGUAGES
from k15.engines.service.process import Service
from k15.programs import Call, Case, Job, Limits
from k15.records import Status
from k15.values import encode
from tests.engines.sandbox.conftest import LIMITS, stdio

pytestmark = pytest.mark.engine

DOUBLE = "print(int(input()) * 2)"
with_compiler = pytest.mark.skipif(not LANGUAGES["cpp"].available, reason=LANGUAGES["cpp"].remedy)


def calls(source: str, *pairs: tuple[tuple[object, ...], object], **options: object) -> Job:
    made = tuple(Call(encode(arguments), encode(expected)) for arguments, expected in pairs)
    return Job("python", source, "calls", (Case(calls=made),), entry_point="f", limits=LIMITS, **options)  # type: ignore[arg-type]


def asserts(source: str, *tests: str) -> Job:
    return Job("python", source, "asserts", tuple(Case(tests=test) for test in tests), limits=LIMITS)


def test_a_program_is_correct_where_every_output_is_expected(sandbox: Sandbox, isolation: str) -> None:
    right = sandbox.judge(stdio(DOUBLE, *((str(n), f"{2 * n}\n") for n in range(8))))
    assert (right.status, len(right.cases), right.isolation) == (Status.CORRECT, 8, isolation)
    wrong = sandbox.judge(stdio(DOUBLE, ("1", "2"), ("2", "5"), stop_at_first=False))
    assert (wrong.status, wrong.reason) == (Status.WRONG, "wrong output")
    assert [case.status for case in wrong.cases] == [Status.CORRECT, Status.WRONG]


def test_the_first_wrong_case_stops_a_job(sandbox: Sandbox) -> None:
    result = sandbox.judge(stdio(DOUBLE, *(("1", "9") for _ in range(40))))
    assert result.status is Status.WRONG
    assert len(result.cases) <= 2  # one on each slot


@pytest.mark.parametrize(
    ("checker", "expected", "right"),
    [
        ("tokens", "1 2\n3", True),
        ("lines", "1 2\n3\n\n", False),
        ("lines", "1  2 \n3", True),
        ("exact", "1  2\n3\n", True),
        ("exact", "1  2\n3", False),
        ("numbers", "1.0 2.0000001 3", True),
        ("numbers", "1.0 2.1 3", False),
    ],
)
def test_checkers(sandbox: Sandbox, checker: str, expected: str, right: bool) -> None:
    job = stdio("print('1  2\\n3')", ("", expected), checker=checker, tolerance=1e-6)
    assert (sandbox.judge(job).status is Status.CORRECT) == right


def test_what_nothing_is_expected_of_gives_its_output(sandbox: Sandbox) -> None:
    result = sandbox.judge(stdio("print(input()[::-1])", ("añ😀", None)))
    assert (result.status, result.cases[0].output) == (Status.CORRECT, "😀ña\n")


def test_a_main_module_behaves_as_one(sandbox: Sandbox) -> None:
    source = """
import atexit, dataclasses, sys, threading, time
atexit.register(lambda: print("exit"))
@dataclasses.dataclass
class P:
    x: int
if __name__ == "__main__":
    threading.Thread(target=lambda: [time.sleep(0.1), print("thread", P(3))]).start()
    print(sys.argv, file=sys.stdout)
    sys.exit(0)
"""
    result = sandbox.judge(stdio(source, ("", "['main.py'] thread P(x=3) exit")))
    assert result.status is Status.CORRECT, result


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1/0", "ZeroDivisionError"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("print(", "SyntaxError"),
        ("import os; os.abort()", "signal 6"),
        ("import os; os.kill(os.getpid(), 15)", "signal 15"),
        ("while True: pass", "CPU"),
        ("import time; time.sleep(60)", "wall time"),
        ("while True: print('x' * 1000)", "output"),
        ("x = bytearray(1 << 30)", "MemoryError"),
    ],
)
def test_a_programs_own_fault_is_wrong_with_its_reason(sandbox: Sandbox, source: str, reason: str) -> None:
    wall_s = 1.0 if "sleep" in source else 30.0
    limits = Limits(cpu_s=1.0, wall_s=wall_s, output_kb=64)
    result = sandbox.judge(stdio(source, ("", "x"), limits=limits))
    assert result.status is Status.WRONG
    assert reason in result.reason


def test_calls_are_compared_outside(sandbox: Sandbox) -> None:
    identity = "def f(*a):\n    return a[0] if len(a) == 1 else a"
    values: list[object] = [
        None, True, 7, -(10**400), 1.5, float("inf"), float("nan"), "é\ud800", b"\x00\xff", (1, [2, {3}]),
        {"a": {(1, 2): {}}}, frozenset({1}), 1 + 2j, range(3),
    ]  # fmt: skip
    result = sandbox.judge(calls(identity, *(((value,), value) for value in values)))
    assert result.status is Status.CORRECT, result.reason
    assert (
        sandbox.judge(calls(identity, ((1,), 1), (([1, 2],), (1, 2)))).reason == "call 1 gave a wrong value"
    )
    assert sandbox.judge(calls(identity, (({1, 2.0},), {1.0, 2}))).status is Status.CORRECT
    assert sandbox.judge(calls(identity, ((0.3,), 0.1 + 0.2))).status is Status.CORRECT
    assert sandbox.judge(calls(identity, ((0.31,), 0.3))).status is Status.WRONG
    assert sandbox.judge(calls(identity, ((0.31,), 0.3), tolerance=0.1)).status is Status.CORRECT
    assert "ZeroDivisionError" in sandbox.judge(calls("def f(x):\n  return 1/x", ((0,), 0))).reason
    assert "not answered" in sandbox.judge(calls("import os\ndef f(x):\n  os._exit(0)", ((0,), 0))).reason


def test_a_solution_may_be_named_like_a_function_of_pythons(sandbox: Sandbox) -> None:
    tests = (Case(tests="assert sum(10, 15) == 25"),)
    job = Job("python", "def sum(a, b): return a + b", "asserts", tests, entry_point="sum", limits=LIMITS)
    assert sandbox.judge(job).status is Status.CORRECT


def test_assertions_run_apart_from_the_solution(sandbox: Sandbox) -> None:
    source = """
class P:
    def __init__(self, x): self.x = x
def total(ps): return sum(p.x for p in ps)
def f(x): return [x]
"""
    tests = "assert total([P(1), P(2)]) == 3\nassert f(2) == [2]"
    right = asserts(source, tests, "def check(candidate):\n    assert candidate(1) == [1]\ncheck(f)")
    assert sandbox.judge(right).status is Status.CORRECT
    wrong = sandbox.judge(asserts(source, "assert f(2) == 2"))
    assert wrong.status is Status.WRONG
    assert "AssertionError" in wrong.reason
    raised = asserts("def f(x): raise KeyError(x)", "try:\n  f(1)\n  assert False\nexcept KeyError: pass")
    assert sandbox.judge(raised).status is Status.CORRECT
    assert sandbox.judge(asserts("import os; os._exit(0)", "assert f(2) == 2")).status is Status.WRONG


@with_compiler
def test_cpp_is_compiled_once_and_run(sandbox: Sandbox) -> None:
    source = "#include <iostream>\nint main(){long long a;std::cin>>a;std::cout<<2*a<<std::endl;}"
    result = sandbox.judge(stdio(source, ("4", "8"), ("5", "10"), language="cpp"))
    assert result.status is Status.CORRECT, result.reason
    broken = sandbox.judge(stdio("int main(){ return x; }", ("", ""), language="cpp"))
    assert broken.status is Status.WRONG
    assert "compile error" in broken.reason
    crash = sandbox.judge(
        stdio("int main(){ volatile int* p = nullptr; return *p; }", ("", ""), language="cpp")
    )
    assert "signal 11" in crash.reason


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (stdio("", ("", ""), language="cobol"), "language: 'cobol' is unknown; there are cpp, python"),
        (Job("python", "", "stdio", ()), "cases: there are none"),
        (Job("cpp", "", "asserts", (Case(tests="assert f(1)"),)), "style: cpp has stdio"),
        (Job("python", "", "asserts", (Case(tests="assert f(1)"), Case(tests="x ="))), r"cases\[1\].tests"),
        (Job("python", "", "asserts", (Case(tests="x = 1"),)), "they assert nothing"),
        (Job("python", "", "calls", (Case(),), entry_point="f"), r"cases\[0\].calls"),
        (Job("python", "", "calls", (Case(),)), "entry_point"),
        (stdio("", limits=Limits(memory_mb=4096)), "limits.memory_mb: 4096 is more than a slot's 512"),
        (stdio("", limits=Limits(cpu_s=0.0)), "limits.cpu_s"),
    ],
)
def test_a_job_that_cannot_be_judged_is_refused_by_field(sandbox: Sandbox, job: Job, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        sandbox.judge(job)


def test_callers_need_the_token(service: Service) -> None:
    with Sandbox(service.port, "wrong") as stranger, pytest.raises(PermissionError):
        stranger.judge(stdio(DOUBLE, ("1", "2")))


def test_a_missed_deadline_and_a_dead_service_are_unjudged(sandbox: Sandbox) -> None:
    late = sandbox.judge(stdio("import time; time.sleep(5)", ("", ""), deadline_s=0.5))
    assert late.status is Status.UNJUDGED
    assert "deadline" in late.reason
    assert sandbox.judge(stdio(DOUBLE, ("1", "2"))).status is Status.CORRECT
    with Sandbox(1, "x") as nowhere:
        assert nowhere.judge(stdio(DOUBLE, ("1", "2"))).reason == "the sandbox is down: ConnectError"


def test_many_callers_get_their_own_answers(sandbox: Sandbox) -> None:
    jobs = [stdio(f"print({n} * int(input()))", ("3", str(3 * n + n % 2))) for n in range(40)]
    with ThreadPoolExecutor(8) as threads:
        found = [result.status for result in threads.map(sandbox.judge, jobs)]
    assert found == [Status.WRONG if n % 2 else Status.CORRECT for n in range(40)]


def test_health_and_metrics(sandbox: Sandbox, service: Service, isolation: str) -> None:
    sandbox.judge(stdio(DOUBLE, ("1", "2")))
    assert sandbox.health() | {"jobs": 0, "slots": 2} == {
        "slots": 2,
        "wanted": 2,
        "jobs": 0,
        "isolation": isolation,
    }
    assert 'k15_sandbox_cases_total{language="python",status="correct"}' in sandbox.metrics()
    connection = http.client.HTTPConnection("127.0.0.1", service.port)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert answer.status == 401
    assert "token" in json.loads(answer.read())["message"]
    connection.close()
