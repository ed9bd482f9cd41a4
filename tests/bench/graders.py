"""Graders judge what is known: published answers and programs are correct, changed programs are wrong.

`make bench NAME=graders` reads `../shared/data` (or the folder given) and writes out/bench/graders.json:
  gsm8k_gold      of GSM8K's 8,792 published answers, as responses, how many the grader accepts
  humaneval_gold  of HumanEval+ Mini's 164 published programs, as responses; each must also pass the tests
                  that HumanEval publishes, which are not its own answers
  mbpp_gold       of MBPP+'s 378, and the published assertions
  mutants_caught  share of all mutants (tests/mutants.py) of these programs that are judged wrong
What is not accepted, what is left out of tests, and every mutant that survives is printed; the latter are
in out/bench/surviving_mutants.txt too. `ARGS="--checks mbpp mutants --every 20"` takes some checks, and every
20th row. Programs need root and crun (`apt-get install -y --no-install-recommends crun`).
"""
# environment: engine

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from k15.engines.sandbox.client import Sandbox
from k15.ports import Reward, RewardPorts
from k15.programs import Case, Suite
from k15.recipes.pipeline import Resources
from k15.records import Status
from k15.rewards import judge_all, judging
from k15.rewards.pool import ComparisonPool
from k15.rewards.program import fenced
from k15.tasks import code, jsonl, solutions
from k15.tasks.corpus import prompt
from k15.tasks.solutions import Solved
from stages.rewards import open_sandbox
from tests.mutants import OPERATORS, Mutant, mutants

DATA = Path("../shared/data")
HUMANEVAL_PLUS, HUMANEVAL = "humaneval/HumanEvalPlus-Mini.jsonl", "humaneval/HumanEval.jsonl"
MBPP_PLUS = "mbpp/MbppPlus.jsonl"
OUT = Path("out/bench")
Figures = dict[str, float]


@dataclass
class Bench:
    """What the checks share."""

    data: Path
    every: int
    stack: ExitStack

    @cached_property
    def sandbox(self) -> Sandbox:
        scratch = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="k15-bench-")))
        return self.stack.enter_context(open_sandbox(Resources(cores=os.cpu_count() or 1), scratch))

    @property
    def judge(self) -> Reward:
        return judging({"code"}, RewardPorts(sandbox=self.sandbox))

    @cached_property
    def humaneval(self) -> list[Solved]:
        return self._solved(HUMANEVAL_PLUS)

    @cached_property
    def mbpp(self) -> list[Solved]:
        return self._solved(MBPP_PLUS)

    def lines(self, file: str) -> list[str]:
        """The rows taken; the others are blank, so that each keeps its number."""
        rows = (self.data / file).read_text("utf-8").split("\n")
        return [row if number % self.every == 0 else "" for number, row in enumerate(rows)]

    def _solved(self, file: str) -> list[Solved]:
        return solutions.solve(code.drafts(self.lines(file), where=file, task=file), self.sandbox)


def gsm8k(bench: Bench) -> Figures:
    """The published solutions, which end in `#### answer`."""
    rows = [
        row
        for part in ("train", "test")
        for row in jsonl.rows(bench.lines(f"gsm8k/{part}.jsonl"), where=part, task="gsm8k")
    ]
    with ComparisonPool(os.cpu_count() or 1) as pool:
        rejected = jsonl.self_check(rows, judging({"math"}, RewardPorts(equivalence=pool)))
    for row, verdict in rejected:
        print(f"rejected: {row.where}: {row.problem.answer!r} {verdict.status} {verdict.reason}")
    return {"gsm8k_gold": len(rows) - len(rejected), "gsm8k_rows": len(rows)}


def humaneval(bench: Bench) -> Figures:
    """Published programs by EvalPlus's inputs and by HumanEval's own tests."""
    own = code.drafts(bench.lines(HUMANEVAL), where=HUMANEVAL, task="humaneval")
    return _gold("humaneval", bench, bench.humaneval, [draft.suite for draft in own])


def mbpp(bench: Bench) -> Figures:
    """Published programs by EvalPlus's inputs and by the assertions published beside them."""
    rows = [json.loads(line) for line in bench.lines(MBPP_PLUS) if line]
    own = [
        Suite("python", "asserts", (Case(tests=f"import math, sys\n{row['assertion']}"),), row["entry_point"])
        for row in rows
    ]
    return _gold("mbpp", bench, bench.mbpp, own)


def _gold(name: str, bench: Bench, solved: Sequence[Solved], own: Sequence[Suite]) -> Figures:
    for one in solved:
        for reason in one.left_out:
            print(f"left out: {one.draft.where}: {one.draft.suite.entry_point}: {reason}")
    refused = {one.draft.where: one.problem for one in solved if one.row is None}
    rows = [one.row for one in solved if one.row is not None]
    for row, verdict in jsonl.self_check(rows, bench.judge):
        refused.setdefault(row.where, f"{verdict.status} {verdict.reason}")
    by_own = [
        one.row._replace(problem=replace(one.row.problem, answer=suite.to_json()))
        for one, suite in zip(solved, own, strict=True)
        if one.row is not None
    ]
    for row, verdict in jsonl.self_check(by_own, bench.judge):
        refused.setdefault(row.where, f"by the published tests {verdict.status} {verdict.reason}")
    for where, reason in refused.items():
        print(f"rejected: {where}: {reason}")
    left_out = sum(len(one.left_out) for one in solved)
    return {
        f"{name}_gold": len(solved) - len(refused),
        f"{name}_rows": len(solved),
        f"{name}_inputs_left_out": left_out,
    }


def changed(bench: Bench) -> Figures:
    """Every mutant of the published programs, by the tests of their problems."""
    for name, operator in OPERATORS.items():
        print(f"operator: {name}: {operator.__doc__}")
    posed = [
        (one, mutant)
        for one in [*bench.humaneval, *bench.mbpp]
        if one.row is not None
        for mutant in mutants(one.draft.program, after_line=one.draft.suite.preamble.count("\n"))
    ]
    prompts = {one.draft.where: prompt(one.row.problem) for one, _ in posed if one.row is not None}
    responses = [(prompts[one.draft.where], fenced(mutant.program, "python")) for one, mutant in posed]
    verdicts = judge_all(bench.judge, responses)
    alive = [
        (one, mutant, verdict.status)
        for (one, mutant), verdict in zip(posed, verdicts, strict=True)
        if verdict.status is not Status.WRONG
    ]
    lines = [
        f"{one.draft.where}: {status}: {mutant.operator}: line {mutant.line}: {mutant.change}"
        for one, mutant, status in alive
    ]
    (OUT / "surviving_mutants.txt").write_text("".join(f"{line}\n" for line in lines))
    print(*(f"survivor: {line}" for line in lines), sep="\n")
    return _shares([mutant for _, mutant in posed], [mutant for _, mutant, _ in alive])


def _shares(posed: Sequence[Mutant], alive: Sequence[Mutant]) -> Figures:
    made = Counter(mutant.operator for mutant in posed)
    survived = Counter(mutant.operator for mutant in alive)
    for name in OPERATORS:
        print(f"mutants: {name}: {made[name] - survived[name]} of {made[name]} judged wrong")
    return {"mutants_caught": 1 - len(alive) / len(posed), "mutants": len(posed), "survivors": len(alive)}


CHECKS: dict[str, Callable[[Bench], Figures]] = {
    "gsm8k": gsm8k,
    "humaneval": humaneval,
    "mbpp": mbpp,
    "mutants": changed,
}
SHOWN = ("gsm8k_gold", "humaneval_gold", "mbpp_gold", "mutants_caught")
LEAST_CAUGHT = 0.9


def main() -> int:
    """The checks; the exit code is 1 where a published answer was not accepted, or too few mutants caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=DATA)
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    figures: Figures = {}
    with ExitStack() as stack:
        bench = Bench(options.data, options.every, stack)
        for name in options.checks:
            began_s = time.monotonic()
            figures |= CHECKS[name](bench)
            figures[f"{name}_seconds"] = time.monotonic() - began_s
    (OUT / "graders.json").write_text(json.dumps(figures, indent=1))
    print(*(f"{name}={value:g}" for name, value in figures.items() if name not in SHOWN), sep="  ")
    print(*(f"{name}={figures[name]:g}" for name in SHOWN if name in figures), sep="  ")
    short = [
        name for name in options.checks if figures.get(f"{name}_gold", 0) < figures.get(f"{name}_rows", 0)
    ]
    return int(bool(short) or figures.get("mutants_caught", 1.0) < LEAST_CAUGHT)


if __name__ == "__main__":
    sys.exit(main())
