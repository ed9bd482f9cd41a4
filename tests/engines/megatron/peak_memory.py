"""What training holds at its peak, in a process of its own: peak_memory.py CASES (JSON) -> JSON on stdout.

A case is {"model": directory, "row_tokens": …, "num_rows": …}, and how its trainer is made; its figure is the
process's peak resident bytes in its second step, over what it held before there was a trainer.
"""

import ctypes
import gc
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from k15.engines.megatron import parallel
from k15.engines.megatron.trainer import MegatronTrainer
from k15.recipes.supervised import Optimizer
from k15.records import Sequence

VOCABULARY = 500
M_MMAP_THRESHOLD = -3  # of malloc.h


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak(model: str, row_tokens: int, num_rows: int, **how: Any) -> int:
    """Bytes of weights, gradients, optimizer and activations together, at their most."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    rows = [
        Sequence(
            tuple((7 * n + 3 * t) % VOCABULARY for t in range(row_tokens + 1)),
            (False,) + (True,) * row_tokens,
        )
        for n in range(num_rows)
    ]
    trainer = MegatronTrainer(Path(model), threads=1, max_tokens_per_microbatch=row_tokens * num_rows, **how)
    # Small blocks too go back to the system at once: what is resident is what is held.
    ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 65536)
    trainer.reset_optimizer(Optimizer())
    trainer.supervised_step(rows, lr=1e-4)  # the moments exist from here on
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    trainer.supervised_step(rows, lr=1e-4)
    return resident("VmHWM") - before


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parallel.start(0)
    cases = json.loads(sys.argv[1])
    for case in {case.get("precision"): case for case in cases}.values():
        peak(**case | {"row_tokens": 8, "num_rows": 1})  # the libraries' own buffers
    print(json.dumps([peak(**case) for case in cases]))
