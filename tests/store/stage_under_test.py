"""A small stage of its own kind, run by the tests as `python -m tests.store.stage_under_test --job …`."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

from k15.recipes.stage import StageRecipe
from k15.stage import StageContext, StageStopped, run_stage


class Counting(StageRecipe):
    """Rounds of counting; `what` chooses how it ends."""

    kind: ClassVar[str] = "counting"
    roles: ClassVar[tuple[str, ...]] = ("data",)

    rounds: int = 3
    pause_s: float = 0.0
    what: str = "count"


def body(context: StageContext, recipe: Counting) -> None:
    """Commit a round at a time, from where an earlier run left off; leave a mark for each round begun."""
    total = 0
    if "data" in context.inputs:
        total = int(context.inputs["data"].read_bytes("start"))
    if recipe.what in ENDINGS:
        ENDINGS[recipe.what](context)
    last = context.store.last_round(context.job.key)
    total = last.state["total"] if last else total
    for number in range(last.number + 1 if last else 0, recipe.rounds):
        mark(f"round {number}")
        total += number
        time.sleep(recipe.pause_s)
        attempt = context.store.begin(context.job.key)
        attempt.write_json("total.json", total)
        assert context.store.commit_round(context.job.key, number, attempt, {"total": total})
        context.metrics.log(number, total=total)
        context.progress(number + 1, recipe.rounds, "rounds")
        if context.stopping():
            raise StageStopped
    context.out.write_json("result/total.json", total)
    context.summary["total"] = total


def mark(text: str) -> None:
    """Tell the test."""
    with Path(os.environ["MARKS"]).open("a") as marks:
        marks.write(text + "\n")


def disk_full(context: StageContext) -> None:
    """Run out of disk, for real."""
    context.out.write_bytes("model/half", b"1")
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"1")


def fault(context: StageContext) -> None:
    """Fail as a program does."""
    context.out.write_bytes("model/half", b"1")
    raise RuntimeError("the engine broke")


def bad_input(context: StageContext) -> None:
    """Refuse the data."""
    raise ValueError(f"{context.inputs['data'].uri}: the data set is empty; give it rows")


def spoilt(context: StageContext) -> None:
    """Meet a loss that is no number, as every attempt would."""
    raise FloatingPointError("step 3: the loss is nan; examples data/t.parquet row 7 tokens 0:9")


def diverge(context: StageContext) -> None:
    """End with a number that is none."""
    context.metrics.log(0, loss=float("nan"))
    context.summary["loss"] = float("nan")


def deaf(context: StageContext) -> None:
    """Start a child and never look at anything again."""
    context.progress(0, 1, "children")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    mark(f"child {child.pid}")
    time.sleep(600)


def upload(context: StageContext) -> None:
    """Wait, then write to a store that is gone by then."""
    mark("waiting")
    time.sleep(3)
    context.out.write_bytes("model/half", b"1")


ENDINGS = {
    "disk_full": disk_full,
    "fault": fault,
    "bad_input": bad_input,
    "diverge": diverge,
    "spoilt": spoilt,
    "deaf": deaf,
    "upload": upload,
}

if __name__ == "__main__":
    run_stage(Counting, body)
