"""What to say of a stage: the layout asked for, those that fit, and why not."""

from dataclasses import dataclass, replace
from typing import Any

from k15.recipes import StageRecipe
from k15.recipes.pipeline import Layout
from k15.recipes.rl import RlRecipe
from k15.recipes.supervised import FitRecipe
from k15.sizing import layouts, workload
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
class Asked:
    """A stage that trains, as its node asks for it."""

    node: str
    work: Workload
    training: Training
    layout: Layout | None  # None: any


def asked(
    node: str, recipe: StageRecipe, layout: Layout | None, *, distributed_optimizer: bool
) -> Asked | None:
    """What a node's recipe asks for; None where its stage does not train."""
    work = workload.of(recipe)
    if work is None or not isinstance(recipe, FitRecipe | RlRecipe):
        return None
    training = Training(recipe.recompute, distributed_optimizer, recipe.precision)
    return Asked(node, work, training, layout)


@dataclass(frozen=True)
class Found:
    """What became of one stage."""

    asked: Asked
    ways: tuple[Estimate, ...]  # as asked, and with recomputation the other way
    fitting: tuple[Estimate, ...]  # fastest first
    num_possible: int  # layouts that divide the model
    problem: str  # why the stage cannot run as asked; "" where it can

    def resolved(self, shown: int) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "node": self.asked.node,
            "precision": self.asked.training.precision,
            "row_tokens": self.asked.work.row_tokens,
            "microbatch_tokens": self.asked.work.microbatch_tokens,
            "step_tokens": self.asked.work.step_tokens,
            "asked": [one.resolved() for one in self.ways],
            "fitting": [one.resolved() for one in self.fitting[:shown]],
            "num_fitting": len(self.fitting),
            "num_possible": self.num_possible,
            "problem": self.problem,
        }


def find(model: Shape, asked: Asked, machine: Machine) -> Found:
    """Whether a stage can run as it asks, and the layouts it fits in."""
    gpu = GPUS[machine.gpu]
    # The trainer refuses float32 on CUDA: what could run there instead is proposed in bfloat16.
    possible = layouts.ranked(
        model, asked.work, replace(asked.training, precision="bfloat16"), gpu, gpus=machine.gpus
    )
    found = Found(
        asked=asked,
        ways=(),
        fitting=tuple(layouts.fitting(possible, machine.memory_bytes)),
        num_possible=len({str(one.layout) for one in possible}),
        problem="",
    )
    if asked.layout is not None:
        return _in_layout(model, found, asked.layout, machine)
    if not found.fitting:
        return replace(found, problem=_nothing_fits(model, asked, machine, possible))
    return replace(found, problem=_with_proposal(_wrong_precision(asked), found))


def _in_layout(model: Shape, found: Found, layout: Layout, machine: Machine) -> Found:
    """The same for the one layout asked for."""
    asked = found.asked
    problems = _wrong_precision(asked)
    if layout.world != machine.gpus:
        problems.append(f"{layout} is for {layout.world} of the {machine.gpus} GPUs")
    if wrong := layouts.indivisible(model, layout, asked.work):
        return replace(found, problem=_with_proposal(problems + wrong, found))
    other = replace(asked.training, recompute=not asked.training.recompute)
    one, again = (
        layouts.estimate(model, layout, asked.work, training, GPUS[machine.gpu])
        for training in (asked.training, other)
    )
    problems += _too_large(one, again, machine)
    return replace(found, ways=(one, again), problem=_with_proposal(problems, found))


def _wrong_precision(asked: Asked) -> list[str]:
    if asked.training.precision == "bfloat16":
        return []
    return [f'precision = "{asked.training.precision}" is refused on GPUs; set "bfloat16" in the recipe']


def _too_large(one: Estimate, other: Estimate, machine: Machine) -> list[str]:
    if one.needed_bytes <= machine.memory_bytes:
        return []
    needed = f"{one.layout} needs {gigabytes(one.needed_bytes)} of {machine.memory_gb:g} GB"
    if one.training.recompute:
        return [f"{needed} even with recomputation"]
    if other.needed_bytes <= machine.memory_bytes:
        return [f"{needed}; with recompute = true in the recipe, {gigabytes(other.needed_bytes)}: it fits"]
    return [f"{needed}, and with recompute = true {gigabytes(other.needed_bytes)}"]


def _with_proposal(problems: list[str], found: Found) -> str:
    """The problems, and the fastest way that fits; "" where there is no problem."""
    if not problems:
        return ""
    if not found.fitting:
        return "; ".join([*problems, f"none of the {found.num_possible} possible layouts fits"])
    best = found.fitting[0]
    fields = ",".join(f"{field}={str(value).lower()}" for field, value in best.layout.resolved().items())
    again = f", with recompute = {str(best.training.recompute).lower()}"
    return "; ".join([*problems, f"the fastest that fits is {fields}{again}"])


def _nothing_fits(model: Shape, asked: Asked, machine: Machine, possible: list[Estimate]) -> str:
    work = asked.work
    if not possible:
        step = f"a step of {work.num_microbatches} microbatches"
        return f"no layout of {machine.gpus} GPUs divides the model and {step}"
    leanest = min(possible, key=lambda one: one.needed_bytes)
    needed = f"{gigabytes(leanest.needed_bytes)} of {machine.memory_gb:g} GB"
    more = layouts.fewest_gpus(
        model,
        work,
        leanest.training,
        GPUS[machine.gpu],
        machine.memory_bytes,
        more_than=machine.gpus,
    )
    hint = f"{more} GPUs would do" if more else "use GPUs of more memory or shorter rows"
    return f"no layout of {machine.gpus} GPUs fits: the leanest, {leanest.layout}, needs {needed}; {hint}"


def gigabytes(size_bytes: float) -> str:
    """As people count a GPU's memory."""
    return f"{size_bytes / GIB:.1f} GB"
