"""The profiler switch: a few steps of a trainer, traced."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from k15.engines.megatron.trainer import MegatronTrainer
from k15.records import Sequence as Row

UNTRACED_STEPS = 2  # the first ones allocate, compile and fill caches
TRACED_STEPS = 3
OPERATORS_SHOWN = 30


class ProfiledTrainer:
    """A trainer whose supervised steps a profiler counts."""

    def __init__(self, trainer: MegatronTrainer, profiler: Any) -> None:
        self._trainer = trainer
        self._profiler = profiler

    def supervised_step(self, batch: Sequence[Row], *, lr: float) -> dict[str, float]:
        """The trainer's, as a region of the trace."""
        with torch.profiler.record_function("supervised_step"):
            values = self._trainer.supervised_step(batch, lr=lr)
        self._profiler.step()
        return values

    def logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """The trainer's."""
        return self._trainer.logprobs(rows)


@contextmanager
def profiled(trainer: MegatronTrainer, directory: Path) -> Iterator[ProfiledTrainer]:
    """Trace TRACED_STEPS steps after the first UNTRACED_STEPS (fewer where the run ends before).

    Writes trace.json.gz (for Perfetto or chrome://tracing) and operators.txt, the costliest ones. It changes
    no result; the traced steps take longer.
    """
    directory.mkdir(parents=True)

    def write(traced: profile) -> None:
        traced.export_chrome_trace(str(directory / "trace.json.gz"))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = traced.key_averages().table(sort_by=order, row_limit=OPERATORS_SHOWN)
        (directory / "operators.txt").write_text(table + "\n")

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    steps = schedule(wait=UNTRACED_STEPS - 1, warmup=1, active=TRACED_STEPS, repeat=1)
    with profile(activities=activities, schedule=steps, on_trace_ready=write) as profiler:
        yield ProfiledTrainer(trainer, profiler)
