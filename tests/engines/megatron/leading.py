"""A process that leads a trainer of two ranks, as a stage does: leading.py MODE MODEL LAYOUT OUTPUT"""

import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path

from k15.engines.megatron import ranks
from k15.recipes.pipeline import Layout
from k15.recipes.supervised import Optimizer
from tests.engines.megatron.layouts import LIMIT, some_rows

FOLDER = 900  # a file descriptor


def main() -> None:
    """`train` takes a turn of memory, saves, lets a rank die and takes a step; `wait` waits to be killed.

    `resume` reads a state in a folder that no other rank sees.
    """
    mode, model, layout, output = sys.argv[1:]
    trainer = ranks.lead(
        Path(model),
        layout=Layout.parse(json.loads(layout), where="layout"),
        env=os.environ,
        threads=1,
        max_tokens_per_microbatch=LIMIT,
    )
    if mode == "wait":
        print("pid", trainer._followers[0].pid, flush=True)
        time.sleep(600)
    trainer.reset_optimizer(Optimizer(adam_epsilon=1.0))
    loss = trainer.supervised_step(some_rows(), lr=1e-2)["loss"]
    if mode == "resume":
        trainer.save_state(Path(output))
        os.dup2(os.open(output, os.O_RDONLY), FOLDER)
        trainer.load_state(Path(f"/proc/self/fd/{FOLDER}"))
    assert 0 < trainer.offload() == trainer.onload()  # every rank's memory leaves and comes back
    trainer.save(Path(output))
    print("loss", loss, flush=True)
    trainer._followers[0].kill()
    trainer.supervised_step(some_rows(), lr=1e-2)
    print("not noticed", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.INFO)
    main()
