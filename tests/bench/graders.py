"""Graders judge what is known: every published gold answer is correct.

`make bench NAME=graders` reads `../shared/data` (or the folder given) and writes out/bench/graders.json:
  gsm8k_gold   of GSM8K's 8,792 published answers, as responses, how many the grader accepts
Rows that it does not accept are printed.
"""
# environment: engine

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from k15.ports import RewardPorts
from k15.rewards import judging
from k15.rewards.pool import ComparisonPool
from k15.tasks import jsonl

DATA = Path("../shared/data")


def gsm8k(data: Path) -> dict[str, float]:
    """The published solutions, which end in `#### answer`."""
    rows = [
        row
        for part in ("train", "test")
        for row in jsonl.rows((data / "gsm8k" / f"{part}.jsonl").open(), where=part, task="gsm8k")
    ]
    with ComparisonPool(os.cpu_count() or 1) as pool:
        rejected = jsonl.self_check(rows, judging({"math"}, RewardPorts(equivalence=pool)))
    for row, verdict in rejected:
        print(f"rejected: {row.where}: {row.problem.answer!r} {verdict.status} {verdict.reason}")
    return {"gsm8k_gold": len(rows) - len(rejected), "gsm8k_rows": len(rows)}


CHECKS: dict[str, Callable[[Path], dict[str, float]]] = {"gsm8k": gsm8k}


def main() -> int:
    """All checks, or the one named; the exit code is 1 where a gold answer was not accepted."""
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    figures: dict[str, float] = {}
    for name, check in CHECKS.items():
        began_s = time.monotonic()
        figures |= check(data)
        figures[f"{name}_seconds"] = time.monotonic() - began_s
    target = Path("out/bench/graders.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1))
    print(*(f"{name}={value:g}" for name, value in figures.items()), sep="  ")
    return int(figures["gsm8k_gold"] < figures["gsm8k_rows"])


if __name__ == "__main__":
    sys.exit(main())
