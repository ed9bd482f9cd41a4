"""Published solutions, run in the sandbox: what they answer is what is expected, and none may fail its tests.

Base inputs are all kept. Of EvalPlus's own some are left out, and named: those that the published solution
does not answer within the limits of one case, and those with the longest answers, until the others have
MAX_ANSWERS characters at most. CPU time is limited to FACTOR times what the published solution takes, rounded
up to a limit of CPU_LIMITS_S.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

from k15.ports import Sandbox
from k15.programs import Call, Case, CaseResult, JobResult, Limits, Suite
from k15.records import Status
from k15.rewards import AT_ONCE
from k15.rewards.program import fenced
from k15.tasks.code import LANGUAGE, Draft
from k15.tasks.jsonl import NAMED, Row

MAX_ANSWERS = 2 << 20  # characters of JSON
OUTPUT_KB = 2 * MAX_ANSWERS >> 10  # so that a wrong answer may be longer
FACTOR = 2
CPU_LIMITS_S = (2.0, 4.0, 8.0, 16.0, 32.0)
WALL = 5  # times the CPU time
LARGEST = Limits(cpu_s=CPU_LIMITS_S[-1] / FACTOR, wall_s=160.0, output_kb=OUTPUT_KB)
DEADLINE_S = 900.0  # of a solution, waiting included


class Solved(NamedTuple):
    """A draft with what is expected of its calls, or why its own solution does not pass."""

    draft: Draft
    row: Row | None
    problem: str = ""
    left_out: tuple[str, ...] = ()  # inputs, each with the reason


def solve(drafts: Iterable[Draft], sandbox: Sandbox) -> list[Solved]:
    """Every draft, in its order, run with its published solution; ConnectionError: the sandbox failed."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="solve") as threads:
        return list(threads.map(lambda draft: _solve(draft, sandbox), drafts))


def rows(solved: Sequence[Solved]) -> list[Row]:
    """ValueError names the rows whose published solution does not pass."""
    refused = [f"{one.draft.where}: {one.problem}" for one in solved if one.row is None]
    if refused:
        raise ValueError(
            f"{'; '.join(refused[:NAMED])} ({len(refused)} rows in all): the published solution does not"
            " pass; correct or remove these rows"
        )
    return [one.row for one in solved if one.row is not None]


def _solve(draft: Draft, sandbox: Sandbox) -> Solved:
    found = _run(draft.suite, draft.program, sandbox)
    if found.status is Status.CORRECT and len(found.cases[0].output) <= MAX_ANSWERS:
        case = found.cases[0]
        if draft.suite.style != "calls":
            return _solved(draft, draft.suite, case.cpu_s)
        answers = json.loads(case.output)
        return _solved(draft, _expecting(draft, range(len(answers)), answers, sandbox), case.cpu_s)
    if draft.suite.style != "calls":
        return Solved(draft, None, found.reason)
    return _one_by_one(draft, sandbox)


def _one_by_one(draft: Draft, sandbox: Sandbox) -> Solved:
    """Each call in a case of its own: some take or give too much."""
    found = _run(_separate(draft.suite), draft.program, sandbox)
    results = dict(enumerate(found.cases))
    reasons = {n: case.reason for n, case in results.items() if case.status is not Status.CORRECT}
    if base := [n for n in reasons if n < draft.num_base]:
        return Solved(draft, None, f"input {base[0]}: {reasons[base[0]]}")
    kept = [n for n in results if n not in reasons]
    total = sum(len(results[n].output) for n in kept)
    for n in sorted(kept, key=lambda n: len(results[n].output), reverse=True):
        if total > MAX_ANSWERS and n >= draft.num_base:
            total -= len(results[n].output)
            reasons[n] = f"its answer has {len(results[n].output)} characters"
    kept = [n for n in kept if n not in reasons]
    answers = [json.loads(results[n].output)[0] for n in kept]
    cpu_s = sum(results[n].cpu_s for n in kept)
    left_out = tuple(f"input {n}: {reason}" for n, reason in sorted(reasons.items()))
    solved = _solved(draft, _expecting(draft, kept, answers, sandbox), cpu_s)
    return solved._replace(left_out=left_out)


def _expecting(draft: Draft, kept: Sequence[int], answers: Sequence[Any], sandbox: Sandbox) -> Suite:
    """The suite with the calls `kept`, which expect `answers`."""
    calls = [draft.suite.cases[0].calls[n] for n in kept]
    others: Sequence[CaseResult | None] = [None] * len(calls)
    if draft.alternative:
        suite = replace(draft.suite, cases=(Case(calls=tuple(calls)),))
        others = _run(_separate(suite), draft.alternative, sandbox).cases
    made = tuple(
        _expected(call, answer, other) for call, answer, other in zip(calls, answers, others, strict=True)
    )
    return replace(draft.suite, cases=(Case(calls=made),))


def _expected(call: Call, answer: Any, other: CaseResult | None) -> Call:
    if call.comparison == "presence":
        answer = answer if isinstance(answer, bool) else answer is not None
    if other is not None:
        more = json.loads(other.output) if other.status is Status.CORRECT else []
        return replace(call, expected={"tag": "list", "of": [answer, *more]}, checked=True, comparison="any")
    return replace(call, expected=answer, checked=True)


def _separate(suite: Suite) -> Suite:
    return replace(suite, cases=tuple(Case(calls=(call,)) for call in suite.cases[0].calls))


def _run(suite: Suite, program: str, sandbox: Sandbox) -> JobResult:
    """All cases, by the largest limits; ConnectionError where the sandbox failed."""
    job = replace(suite, limits=LARGEST).job(program, deadline_s=DEADLINE_S)
    result = sandbox.judge(replace(job, stop_at_first=False))
    if result.status is Status.UNJUDGED:
        raise ConnectionError(f"a published solution could not be run: {result.reason}")
    return result


def _solved(draft: Draft, suite: Suite, cpu_s: float) -> Solved:
    limit = next((limit for limit in CPU_LIMITS_S if cpu_s * FACTOR <= limit), CPU_LIMITS_S[-1])
    limits = Limits(cpu_s=limit, wall_s=limit * WALL, output_kb=OUTPUT_KB)
    problem = draft.problem(replace(suite, limits=limits))
    return Solved(draft, Row(problem, f"Thus:\n\n{fenced(draft.program, LANGUAGE)}\n", draft.where))
