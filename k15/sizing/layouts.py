"""Layouts of a number of GPUs: which are possible, which fit, which is fastest."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from k15.recipes.pipeline import Layout
from k15.sizing.hardware import GIB, Gpu
from k15.sizing.memory import Memory, Training, fullest
from k15.sizing.shape import Shape
from k15.sizing.speed import StepTime, model_flops, step_time
from k15.sizing.workload import Workload

RESERVED_BYTES = 3 * GIB  # CUDA's context, NCCL's buffers, workspaces of matrix products
FRAGMENTATION = 0.05  # of what is allocated
MOST_GPUS = 65536


@dataclass(frozen=True, slots=True)
class Estimate:
    """One way to train: its memory per GPU and its time per step."""

    layout: Layout
    training: Training
    memory: Memory
    time: StepTime
    step_tokens: int
    model_flops: float
    peak_flops: float  # of one GPU

    @property
    def needed_bytes(self) -> float:
        """Of a GPU's memory, with what no formula sees."""
        return self.memory.total * (1 + FRAGMENTATION) + RESERVED_BYTES

    @property
    def mfu(self) -> float:
        """Model operations per second, as a share of the GPUs' peak."""
        return self.model_flops / (self.time.total * self.layout.world * self.peak_flops)

    @property
    def tokens_per_s(self) -> float:
        """Over all GPUs."""
        return self.step_tokens / self.time.total

    def resolved(self) -> dict[str, Any]:
        """As plain JSON values."""
        memory = {name: round(getattr(self.memory, name)) for name in Memory.__dataclass_fields__}
        time = {name: getattr(self.time, name) for name in StepTime.__dataclass_fields__}
        return {
            "layout": self.layout.resolved(),
            "recompute": self.training.recompute,
            "bytes": {**memory, "needed": round(self.needed_bytes)},
            "seconds": {**time, "step": self.time.total},
            "tokens_per_s": self.tokens_per_s,
            "mfu": self.mfu,
        }


def estimate(shape: Shape, layout: Layout, work: Workload, training: Training, gpu: Gpu) -> Estimate:
    """Memory and time of one layout, which must divide the model (see `indivisible`)."""
    return Estimate(
        layout=layout,
        training=training,
        memory=fullest(shape, layout, work, training),
        time=step_time(shape, layout, work, training, gpu),
        step_tokens=work.step_tokens,
        model_flops=model_flops(shape, work),
        peak_flops=gpu.flops,
    )


def indivisible(shape: Shape, layout: Layout, work: Workload) -> list[str]:
    """Why the model or its step cannot be dealt out like this; empty where it can."""
    divisors = {
        "attention heads": (shape.num_heads, "tensor", layout.tensor),
        "key-value groups": (shape.num_groups, "tensor", layout.tensor),
        "MLP columns": (shape.intermediate_size, "tensor", layout.tensor),
        "vocabulary entries": (shape.vocab_size, "tensor", layout.tensor),
        "layers": (shape.num_layers, "pipeline", layout.pipeline),
    }
    problems = [
        f"{field}={by} does not divide the model's {count} {what}"
        for what, (count, field, by) in divisors.items()
        if count % by
    ]
    if layout.data > work.num_microbatches:
        problems.append(
            f"data={layout.data} is more than the {work.num_microbatches} microbatches of a step: "
            "the rest of the GPUs would idle"
        )
    if 2 * layout.context > work.row_tokens and layout.context > 1:
        problems.append(f"context={layout.context} cuts a row of {work.row_tokens} tokens to nothing")
    if layout.sequence and layout.tensor == 1:
        problems.append("sequence=true shares tokens between tensor ranks, and tensor=1 has no others")
    return problems


def possible(shape: Shape, work: Workload, gpus: int) -> Iterator[Layout]:
    """Every layout of exactly `gpus` that divides the model; sequence parallel wherever tensor > 1."""
    for tensor in _divisors(gpus):
        for pipeline in _divisors(gpus // tensor):
            for context in _divisors(gpus // (tensor * pipeline)):
                layout = Layout(
                    tensor=tensor,
                    pipeline=pipeline,
                    context=context,
                    data=gpus // (tensor * pipeline * context),
                    sequence=tensor > 1,
                )
                if not indivisible(shape, layout, work):
                    yield layout


def ranked(shape: Shape, work: Workload, training: Training, gpu: Gpu, *, gpus: int) -> list[Estimate]:
    """Every possible layout, with recomputation and without, fastest first; many need too much memory."""
    ways = [replace(training, recompute=again) for again in (False, True)]
    layouts = possible(shape, work, gpus)
    found = [estimate(shape, layout, work, way, gpu) for layout in layouts for way in ways]
    return sorted(found, key=lambda one: (one.time.total, one.needed_bytes))


def fitting(estimates: list[Estimate], gpu_bytes: float) -> list[Estimate]:
    """Those that fit, each layout once: where it fits without recomputation, that is faster."""
    chosen: dict[str, Estimate] = {}
    for one in estimates:
        if one.needed_bytes <= gpu_bytes:
            chosen.setdefault(str(one.layout), one)
    return list(chosen.values())


def fewest_gpus(
    shape: Shape, work: Workload, training: Training, gpu: Gpu, gpu_bytes: float, *, more_than: int
) -> int:
    """The smallest doubling of `more_than` that has a layout which fits; 0 where none has."""
    gpus = 2 * more_than
    while gpus <= MOST_GPUS:
        if fitting(ranked(shape, work, training, gpu, gpus=gpus), gpu_bytes):
            return gpus
        gpus *= 2
    return 0


def _divisors(number: int) -> list[int]:
    return [value for value in range(1, number + 1) if number % value == 0]
