"""What to say of a stage: the layout asked for, those that fit, and why not."""

from dataclasses import dataclass, replace
from typing import Any

from k15.recipes.pipeline import Layout
from k15.sizing import layouts
from k15.sizing.hardware import GIB, GPUS
from k15.sizing.layouts import Estimate
from k15.sizing.memory import Training
from k15.sizing.shape import Shape
from k15.sizing.workload import Workload


@dataclass(frozen=True)
class Machine:
    """The GPUs there are, and how the optimizer uses them."""

    gpus: int
    gpu: str
    memory_gb: float
    distributed_optimizer: bool

    @property
    def memory_bytes(self) -> float:
        """Of one GPU: makers count in units of 2^30 bytes."""
        return self.memory_gb * GIB


@dataclass(frozen=True)
class Found:
    """What became of one stage."""

    node: str
    work: Workload
    asked: tuple[Estimate, ...]  # the layout asked for, without and with recomputation
    fitting: tuple[Estimate, ...]  # fastest first
    num_possible: int  # layouts that divide the model
    problem: str  # why the stage cannot run as asked; "" where it can

    def resolved(self, shown: int) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "node": self.node,
            "row_tokens": self.work.row_tokens,
            "microbatch_tokens": self.work.microbatch_tokens,
            "step_tokens": self.work.step_tokens,
            "asked": [one.resolved() for one in self.asked],
            "fitting": [one.resolved() for one in self.fitting[:shown]],
            "num_fitting": len(self.fitting),
            "num_possible": self.num_possible,
            "problem": self.problem,
        }


def find(model: Shape, node: str, work: Workload, machine: Machine, layout: Layout | None) -> Found:
    """Whether a stage can run in `layout` (None: in any), and the layouts it fits in."""
    gpu = GPUS[machine.gpu]
    everything = layouts.ranked(
        model, work, gpu, gpus=machine.gpus, distributed_optimizer=machine.distributed_optimizer
    )
    found = Found(
        node=node,
        work=work,
        asked=(),
        fitting=tuple(layouts.fitting(everything, machine.memory_bytes)),
        num_possible=len({str(one.layout) for one in everything}),
        problem="",
    )
    if layout is None:
        return replace(
            found, problem="" if found.fitting else _nothing_fits(model, work, machine, everything)
        )
    problems = layouts.indivisible(model, layout, work)
    if layout.world != machine.gpus:
        problems.insert(0, f"{layout} makes {layout.world} processes, and there are {machine.gpus} GPUs")
    if problems:
        return replace(found, problem="; ".join(problems) + _proposal(found))
    ways = (Training(again, machine.distributed_optimizer) for again in (False, True))
    asked = tuple(layouts.estimate(model, layout, work, training, gpu) for training in ways)
    if asked[-1].needed_bytes <= machine.memory_bytes:
        return replace(found, asked=asked)
    return replace(found, asked=asked, problem=_too_large(asked[-1], machine) + _proposal(found))


def _too_large(one: Estimate, machine: Machine) -> str:
    needed = f"{gigabytes(one.needed_bytes)} of {machine.memory_gb:g} GB"
    return f"{one.layout} needs {needed} even with recomputation"


def _proposal(found: Found) -> str:
    if not found.fitting:
        return f"; none of the {found.num_possible} possible layouts fits"
    return "; the fastest that fits is " + ",".join(
        f"{field}={str(value).lower()}" for field, value in found.fitting[0].layout.resolved().items()
    )


def _nothing_fits(model: Shape, work: Workload, machine: Machine, everything: list[Estimate]) -> str:
    if not everything:
        step = f"a step of {work.num_microbatches} microbatches"
        return f"no layout of {machine.gpus} GPUs divides the model and {step}"
    leanest = min(everything, key=lambda one: one.needed_bytes)
    needed = f"{gigabytes(leanest.needed_bytes)} of {machine.memory_gb:g} GB"
    more = layouts.fewest_gpus(
        model,
        work,
        GPUS[machine.gpu],
        machine.memory_bytes,
        more_than=machine.gpus,
        distributed_optimizer=machine.distributed_optimizer,
    )
    hint = f"{more} GPUs would do" if more else "use GPUs of more memory or shorter rows"
    return f"no layout of {machine.gpus} GPUs fits: the leanest, {leanest.layout}, needs {needed}; {hint}"


def gigabytes(size_bytes: float) -> str:
    """As people count a GPU's memory."""
    return f"{size_bytes / GIB:.1f} GB"
