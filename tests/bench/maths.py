"""Verdicts per second of the mathematics grader, warm, with all cores.

`make bench NAME=maths` writes out/bench/maths.json:
  verdicts_per_s   responses of GSM8K's test questions (the published one, and one with another number), and
                   every pair of tests/rewards/pairs.txt, in a mixed order; median of three turns
  pairs_per_s      the pairs alone: formulas, matrices, units, sets, …
"""
# environment: engine

import json
import os
import random
import re
import sys
import time
from pathlib import Path
from statistics import median

from k15.ports import Reward, RewardPorts
from k15.records import Part, Prompt
from k15.rewards import judge_all, judging
from k15.rewards.pool import ComparisonPool
from k15.tasks import jsonl
from k15.tasks.corpus import prompt

DATA = Path("../shared/data/gsm8k/test.jsonl")
PAIRS = Path("tests/rewards/pairs.txt")
TURNS = 3
Responses = list[tuple[Prompt, str]]


def main() -> int:
    """Measure and write."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    pairs = read_pairs()
    mixed = [*pairs, *read_gsm8k(data)]
    random.Random(0).shuffle(mixed)
    with ComparisonPool(os.cpu_count() or 1) as pool:
        judge = judging({"math"}, RewardPorts(equivalence=pool))
        per_s(judge, pairs)
        figures = {
            "verdicts_per_s": median(per_s(judge, mixed) for _ in range(TURNS)),
            "pairs_per_s": median(per_s(judge, pairs) for _ in range(TURNS)),
            "verdicts": len(mixed),
            "cores": os.cpu_count() or 1,
        }
    target = Path("out/bench/maths.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1))
    print(*(f"{name}={value:g}" for name, value in figures.items()), sep="  ")
    return 0


def per_s(judge: Reward, responses: Responses) -> float:
    """Verdicts per second."""
    began_s = time.perf_counter()
    judge_all(judge, responses)
    return len(responses) / (time.perf_counter() - began_s)


def read_gsm8k(data: Path) -> Responses:
    """Every question with its published response and with one of another number."""
    rows = list(jsonl.rows(data.open(), where=str(data), task="gsm8k"))
    right = [(prompt(row.problem), row.gold) for row in rows]
    return right + [(posed, f"{gold}1") for posed, gold in right]


def read_pairs() -> Responses:
    """The answers of the table as responses."""
    lines = [re.split("  (?:==|!=|\\?\\?)  ", line) for line in PAIRS.read_text("utf-8").splitlines()]
    return [
        (Prompt(str(n), (Part("text", ""),), pair[0], "pairs", 0.0, "math"), f"\\boxed{{{pair[1]}}}")
        for n, pair in enumerate(lines)
        if len(pair) == 2
    ]


if __name__ == "__main__":
    sys.exit(main())
