"""A case of a job as an order for a slot, and the slot's outcome as a verdict. Pure."""

import ast
import json
import signal
from collections.abc import Callable
from typing import Any

from k15.engines.sandbox.check import CHECKERS, accepted_value, same_output
from k15.engines.sandbox.languages import LANGUAGES
from k15.engines.sandbox.slots import ANSWERS, ERRORS, OUTPUT, Outcome, World
from k15.programs import Case, CaseResult, Job
from k15.records import Status

NO_NAMES = {"tag": "dict", "of": []}  # of arguments
LAST_CHARACTERS = 300  # of what a failed program said, in its reason


def refuse(job: Job, *, memory_mb: int) -> None:
    """ValueError that names the case and field of a job that cannot be judged, before anything runs."""
    language = LANGUAGES.get(job.language)
    if language is None:
        raise ValueError(f"language: {job.language!r} is unknown; there are {', '.join(sorted(LANGUAGES))}")
    if not language.available:
        raise ValueError(f"language: {job.language} needs {language.program}; install it: {language.remedy}")
    if job.style not in language.styles:
        raise ValueError(f"style: {job.language} has {', '.join(language.styles)}, not {job.style}")
    if not job.cases:
        raise ValueError("cases: there are none; a program without tests cannot be judged")
    _refuse_limits(job, memory_mb)
    if job.style == "calls" and not job.entry_point.isidentifier():
        raise ValueError(f"entry_point: {job.entry_point!r} is no name of a function")
    if job.checker not in CHECKERS:
        raise ValueError(f"checker: {job.checker!r} is unknown; there are {', '.join(CHECKERS)}")
    for index, case in enumerate(job.cases):
        if job.style == "calls" and not case.calls:
            raise ValueError(f"cases[{index}].calls: there are none")
        for place, call in enumerate(case.calls):
            several = isinstance(call.expected, dict) and isinstance(call.expected.get("of"), list)
            if call.comparison == "any" and not several:
                raise ValueError(
                    f"cases[{index}].calls[{place}].expected: any compares with a list of values"
                )
        if job.style == "asserts":
            _refuse_tests(case.tests, index)


def _refuse_limits(job: Job, memory_mb: int) -> None:
    limits = job.limits
    for name in ("cpu_s", "wall_s", "memory_mb", "disk_mb", "output_kb", "processes"):
        if getattr(limits, name) <= 0:
            raise ValueError(f"limits.{name}: {getattr(limits, name)} is not above 0")
    if limits.memory_mb > memory_mb:
        raise ValueError(f"limits.memory_mb: {limits.memory_mb} is more than a slot's {memory_mb}")
    if job.deadline_s <= 0 or job.tolerance < 0:
        raise ValueError("deadline_s is above 0, tolerance not below 0")


def _refuse_tests(tests: str, index: int) -> None:
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"cases[{index}].tests: no Python: {error}") from None
    if not any(isinstance(node, ast.Assert | ast.Call) for node in ast.walk(tree)):
        raise ValueError(f"cases[{index}].tests: they assert nothing")


def worlds(job: Job, case: Case, binary: bytes | None) -> list[World]:
    """What a slot is to run for a case; `binary` where the language is compiled. Holds no expected output.

    The tests of style asserts hold theirs, in a world that the solution shares nothing with but the calls.
    """
    if binary is not None:
        name = LANGUAGES[job.language].binary
        body = {"command": [f"./{name}"], "files": {name: binary.decode("latin-1")}}
        return [World("exec", body, _bytes(case.stdin))]
    program = {"source": job.source, "files": {}}
    if job.style == "stdio":
        return [World("script", program, _bytes(case.stdin))]
    if job.style == "calls":
        calls = (
            json.dumps({"name": job.entry_point, "arguments": call.arguments, "named": NO_NAMES})
            for call in case.calls
        )
        return [World("serve", program, "".join(f"{call}\n" for call in calls).encode())]
    tests = {"source": case.tests, "function": job.entry_point, "files": {}}
    return [World("serve", program), World("tests", tests)]


def compilation(job: Job) -> World | None:
    """The world that compiles a job's program; None where its language needs none."""
    language = LANGUAGES[job.language]
    if not language.compile:
        return None
    source = _bytes(job.source).decode("latin-1")
    body = {"command": list(language.compile), "files": {language.file: source}}
    return World("exec", body, keep=language.binary)


def compiled(outcome: Outcome) -> tuple[bytes, str]:
    """The binary, and what is wrong where there is none."""
    end, binary = outcome.ends[0], outcome.stream(ANSWERS)
    if end.code == 0 and binary:
        return binary, ""
    return b"", f"compile error: {end.killed or _last(outcome.stream(ERRORS))}"


def result(job: Job, case: Case, outcome: Outcome) -> CaseResult:
    """The verdict on a case. A program's own timeout, crash or flood is wrong."""
    end = outcome.ends[-1] if job.style != "asserts" else outcome.ends[0]
    problem, output = STYLES[job.style](job, case, outcome)
    problem = _ended_badly(job, outcome) or problem
    return CaseResult(
        Status.WRONG if problem else Status.CORRECT,
        problem,
        "" if problem else output,
        end.cpu_s,
        outcome.wall_s,
        end.memory_mb,
    )


def _ended_badly(job: Job, outcome: Outcome) -> str:
    """Why a program is wrong whatever it wrote; empty where it is not."""
    limits = job.limits
    for end in outcome.ends:
        if end.killed:
            limit = (
                f"{limits.wall_s} s of wall time"
                if end.killed == "wall"
                else f"{limits.output_kb} kB of output"
            )
            return f"ended past {limit}"
        if end.cpu_s > limits.cpu_s or end.code == -signal.SIGXCPU:
            return f"used more than {limits.cpu_s} s of CPU time"
    if job.style == "asserts":
        code = outcome.ends[-1].code
        return "" if code == 0 else f"a test failed: {_last(outcome.stream(ERRORS, world=1))}"
    code = outcome.ends[0].code
    if code == 0:
        return ""
    if code is None or code < 0:
        return f"killed by signal {-(code or 0)} (limits of memory and CPU time do so)"
    return f"exit code {code}: {_last(outcome.stream(ERRORS))}"


def _stdio(job: Job, case: Case, outcome: Outcome) -> tuple[str, str]:
    text = outcome.stream(OUTPUT).decode("utf-8", "replace")
    if case.expected is None:
        return "", text
    right = same_output(job.checker, case.expected, text, job.tolerance)
    return ("" if right else "wrong output"), ""


def _calls(job: Job, case: Case, outcome: Outcome) -> tuple[str, str]:
    """Answers against what was expected, one a line."""
    given: list[Any] = []
    lines = outcome.stream(ANSWERS).splitlines()
    for number, call in enumerate(case.calls):
        try:
            answer = json.loads(lines[number])
            if "error" in answer:
                return f"call {number} raised {answer['error']!s:.40}: {answer.get('text', '')!s:.200}", ""
            given.append(answer["value"])
            if call.checked and not accepted_value(
                call.comparison, call.expected, answer["value"], job.tolerance
            ):
                return f"call {number} gave a wrong value", ""
        except (IndexError, ValueError, KeyError, TypeError, RecursionError):
            return f"call {number} was not answered", ""
    return "", json.dumps(given) if not all(call.checked for call in case.calls) else ""


STYLES: dict[str, Callable[[Job, Case, Outcome], tuple[str, str]]] = {
    "stdio": _stdio,
    "calls": _calls,
    "asserts": lambda *_: ("", ""),
}


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _last(errors: bytes) -> str:
    return errors.decode("utf-8", "replace").strip()[-LAST_CHARACTERS:]
