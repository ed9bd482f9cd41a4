"""A few steps over a layout, in a process that leads the others: python -m tests.gpu.laid_out MODEL LAYOUT

Prints the losses, and the log-probs of the first row before them. On a machine without a GPU in fp32.
"""

import json
import os
import sys
from pathlib import Path

import torch

from k15.engines.megatron import ranks
from k15.recipes.pipeline import Layout
from k15.recipes.supervised import Optimizer
from k15.records import Sequence

STEPS = 4


def main() -> None:
    """Train the model of the first argument over the layout of the second."""
    trainer = ranks.lead(
        Path(sys.argv[1]),
        layout=Layout.parse(json.loads(sys.argv[2]), where="layout"),
        env=os.environ,
        threads=1,
        max_tokens_per_microbatch=256,
        precision="bfloat16" if torch.cuda.is_available() else "float32",
    )
    rows = [
        Sequence(tuple((5 * n + 3 * t) % 512 for t in range(20 + n)), (False,) * 5 + (True,) * (15 + n))
        for n in range(32)
    ]
    logprobs = trainer.logprobs(rows)[0]
    trainer.reset_optimizer(Optimizer())
    losses = [trainer.supervised_step(rows, lr=1e-3)["loss"] for _ in range(STEPS)]
    print(json.dumps({"losses": losses, "logprobs": logprobs}))


if __name__ == "__main__":
    main()
