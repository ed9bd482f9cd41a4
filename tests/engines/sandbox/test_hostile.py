"""Hostile programs: none escapes, none stops the service, the next honest case passes."""

import pytest

from k15.engines.sandbox.client import Sandbox
from k15.engines.sandbox.languages import LANGUAGES
from k15.programs import Call, Case, Job, Limits
from k15.records import Status
from k15.values import encode
from tests.engines.sandbox.conftest import stdio
from tests.engines.sandbox.hostile import HOSTILE, PRELUDE

pytestmark = pytest.mark.engine

LIMITS = Limits(cpu_s=1.0, wall_s=3.0, output_kb=64)
PATIENT = Limits(cpu_s=10.0, wall_s=30.0, output_kb=64)  # of what ends by itself, on a busy machine too
NEEDS_CRUN = {"memory_of_many_processes", "oom_score_lowered"}  # cgroups; users beside one's own


def passes_honest_cases(sandbox: Sandbox) -> None:
    """Two at once, so that every slot takes one."""
    result = sandbox.judge(stdio("print(int(input()) + 1)", ("1", "2"), ("5", "6")))
    assert result.status is Status.CORRECT, result


def test_there_are_at_least_sixty() -> None:
    assert len(HOSTILE) >= 60


@pytest.mark.parametrize("name", HOSTILE)
def test_contained(sandbox: Sandbox, isolation: str, name: str) -> None:
    if isolation == "bubblewrap" and name in NEEDS_CRUN:
        pytest.skip("bubblewrap is the weaker wall: no cgroups, one user")
    source, ending = HOSTILE[name]
    limits = PATIENT if ending and "time" not in ending else LIMITS
    result = sandbox.judge(stdio(PRELUDE + source, ("", None), limits=limits))
    assert "ESCAPED" not in result.cases[0].output
    if ending == "contained":
        assert (result.reason, result.cases[0].output) == ("", "contained\n")
    elif ending:
        assert result.status is Status.WRONG
        assert ending in result.reason
    passes_honest_cases(sandbox)


SCAN = """
import ctypes, re
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
wanted = ("SEC" + "RET-").encode() + b"[0-9]{6}"
found = set()
with open("/proc/self/mem", "rb", 0) as memory:
    for line in open("/proc/self/maps"):
        span, rights = line.split()[:2]
        if "r" in rights and "[v" not in line:
            start, end = (int(x, 16) for x in span.split("-"))
            try:
                memory.seek(start)
                found |= set(re.findall(wanted, memory.read(end - start)))
            except (OSError, ValueError, OverflowError):
                pass
"""


def test_no_expected_output_and_no_other_case_is_in_a_programs_memory(sandbox: Sandbox) -> None:
    earlier = stdio("# SECRET-111111\nprint(input())", *(("SECRET-222222", "SECRET-222222"),) * 4)
    assert sandbox.judge(earlier).status is Status.CORRECT
    checked = Job(
        "python", "def f(x): return x", "asserts", (Case(tests="assert f('SECRET-333333')[0] == 'S'"),)
    )
    assert sandbox.judge(checked).status is Status.CORRECT
    own = "# SECRET-444444\n" + SCAN + "print(len(found), b'SECRET-444444' in found)"
    seen = sandbox.judge(stdio(own, ("", None), ("", None), limits=Limits(wall_s=20, cpu_s=10)))
    assert [case.output for case in seen.cases] == ["1 True\n"] * 2  # itself, nothing else
    blind = stdio(SCAN + "print(len(found))", ("", "SECRET-555555"), limits=Limits(wall_s=20, cpu_s=10))
    assert sandbox.judge(blind).reason == "wrong output"


def test_a_solution_cannot_read_the_assertions(sandbox: Sandbox) -> None:
    source = SCAN + "def f(): return sorted(x.decode() for x in found)"
    tests = "assert f() == [], 'SECRET-666666'"
    job = Job("python", source, "asserts", (Case(tests=tests),), limits=Limits(wall_s=20, cpu_s=10))
    assert sandbox.judge(job).status is Status.CORRECT


@pytest.mark.parametrize(
    "source",
    [
        "import os\ndef f(x):\n  [os.write(3, b'{\"value\": true}\\n') for _ in range(50)]\n  return 0",
        "import os\ndef f(x):\n  os.close(3)",
        "import os\ndef f(x):\n  os.write(3, b'x' * 100000)\n  os._exit(0)",
        "import json\njson.dumps = lambda *a, **k: '{}'\ndef f(x): return 0",
        "class E(int):\n  __eq__ = lambda *a: True\n  __hash__ = int.__hash__\ndef f(x): return E(0)",
        "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {})\ndef f(x): return 0",
        "import sys\ndef f(x): sys.exit(0)",
        "import os, signal\ndef f(x): os.kill(-1, signal.SIGKILL)",
        "def f(x):\n  a = []\n  a.append(a)\n  return a",
        "def f(x): return list(range(10**7))",
        "def f(x):\n  while True: yield 1",
    ],
)
@pytest.mark.parametrize("style", ["calls", "asserts"])
def test_a_faked_answer_is_wrong(sandbox: Sandbox, source: str, style: str) -> None:
    if style == "calls":
        case = Case(calls=tuple(Call(encode((n,)), encode(n + 41)) for n in range(3)))
        job = Job("python", source, "calls", (case,), entry_point="f", limits=LIMITS)
    else:
        job = Job("python", source, "asserts", (Case(tests="assert f(1) == 42"),), limits=LIMITS)
    assert sandbox.judge(job).status is Status.WRONG
    passes_honest_cases(sandbox)


@pytest.mark.skipif(not LANGUAGES["cpp"].available, reason=LANGUAGES["cpp"].remedy)
@pytest.mark.parametrize(
    "source",
    [
        '#include "/etc/shadow"\nint main(){}',
        'asm(".incbin \\"/etc/shadow\\"");\nint main(){}',
        '#include "/dev/zero"\nint main(){}',
        "template<int N> struct A { A<N+1> a; }; A<0> a;\nint main(){}",
        "int x[1000000000] = {1};\nint main(){}",
        '#include "main.cpp"',
        "#include <unistd.h>\nint main(){ while (true) fork(); }",
        "int main(){ int a[10]; for (int i = 0; ; i++) a[i] = i; }",
        "#include <cstdlib>\nint main(){ while (true) *(volatile char*)malloc(1<<20) = 1; }",
        "#include <signal.h>\nint main(){ raise(SIGKILL); }",
    ],
)
def test_hostile_cpp_is_wrong(sandbox: Sandbox, source: str) -> None:
    result = sandbox.judge(stdio(source, ("", "x"), language="cpp", limits=LIMITS, deadline_s=120.0))
    assert result.status is Status.WRONG, result
    passes_honest_cases(sandbox)
