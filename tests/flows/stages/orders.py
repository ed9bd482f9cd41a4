"""What a test stage does: it follows the orders a test left for its node, and writes a file or two."""

import os
import subprocess
import sys
import time
from pathlib import Path

from k15.recipes.stage import StageRecipe
from k15.stage import StageContext


def follow(context: StageContext, recipe: StageRecipe) -> None:
    """Orders: "fail" (once), "bad input", "wait" (with a child, until it is ended), "slow" (a second)."""
    note = Path(os.environ.get("K15_TEST_ORDERS", "")) / context.job.node
    order = note.read_text() if note.is_file() else ""
    print(f"node={context.job.node} order={order!r}")
    if order == "fail":
        note.unlink()
        raise RuntimeError("a fault by order")
    if order == "bad input":
        raise ValueError("nodes.x.recipe.y: wrong by order")
    if order == "wait":
        wait_with_child(context)
    if order == "slow":
        time.sleep(1.0)
    for part in ("model", "train", "sft", "longcot", "pretrain"):
        context.out.write_json(f"{part}/content.json", {"recipe": recipe.resolved()})
    context.progress(1, 1, "steps")


def wait_with_child(context: StageContext) -> None:
    """Sleep beside a child process until SIGTERM comes."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        try:
            step = 0
            while True:
                step += 1
                context.progress(step, 1_000_000, "waits")
                time.sleep(0.05)
        finally:
            child.kill()
