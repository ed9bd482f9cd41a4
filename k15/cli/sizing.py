"""`k15 size`: memory per GPU and time per step of a layout, and the layouts that fit."""

import argparse
import tomllib
from pathlib import Path

from rich.table import Table

from k15.cli.planning import add_recipe
from k15.cli.world import Adder, World, recipe_path
from k15.recipes import KINDS, Pipeline
from k15.recipes.pipeline import Layout
from k15.sizing import shape
from k15.sizing.advice import Asked, Found, Machine, asked, find, gigabytes
from k15.sizing.hardware import GIB, GPUS
from k15.sizing.layouts import Estimate
from k15.sizing.shape import Shape
from k15.store.plan import load_pipeline

SHOWN = 5
ANY = "any"


def add_commands(add: Adder) -> None:
    """`size`."""
    command = add(
        "size",
        size,
        "say which layouts of some GPUs fit a model's training, and how fast each would be",
        "k15 size --model /models/Qwen3-32B --recipe full --gpus 64 --gpu-memory 80    as its nodes ask",
        "k15 size --model /models/Qwen3-8B --recipe full --gpus 16 --gpu-memory 80 --layout any --show 20",
        "k15 size --model /models/Qwen3-32B --recipe full --gpus 32 --gpu-memory 80 --node sft \\",
        "         --layout tensor=8,pipeline=2,sequence=true    check one layout; exit code 2: cannot be",
        "k15 size --model /models/Qwen3-8B --recipe full --gpus 16 --gpu-memory 141 --gpu h200 --json",
    )
    command.add_argument("--model", required=True, metavar="DIR", help="a Hugging Face directory")
    add_recipe(command, option="--recipe")
    command.add_argument("--gpus", required=True, type=int, metavar="N", help="how many GPUs")
    command.add_argument(
        "--gpu-memory",
        required=True,
        type=float,
        metavar="GB",
        help="of each GPU, as its name says (80 for 80 GB)",
    )
    command.add_argument("--gpu", choices=GPUS, default="h100", help="its speed and links (default h100)")
    command.add_argument("--node", default="", help="one stage of the pipeline (default: all that train)")
    command.add_argument(
        "--layout",
        default="",
        metavar="NAME=VALUE,…",
        help="check this layout (tensor, pipeline, context, data, sequence; data fills up the GPUs where "
        "it is not given) and not the one in the node's resources; any: say which fit",
    )
    command.add_argument(
        "--distributed-optimizer",
        action="store_true",
        help="as if optimizer state were cut over data and context ranks (the trainer keeps it whole)",
    )
    command.add_argument(
        "--show", type=int, default=SHOWN, metavar="N", help=f"layouts of each stage (default {SHOWN})"
    )


def size(args: argparse.Namespace, world: World) -> int:
    """A table per stage; ValueError says why a stage cannot run as asked, after the tables are printed.

    Asked are the recipe's own rows, precision and recomputation, in the node's or the command's layout.
    """
    machine = _machine(args)
    model = shape.read(Path(args.model))
    pipeline = load_pipeline(recipe_path(world.root, args.recipe), args.set, world.root, with_files=False)
    found = [find(model, one, machine) for one in _asked(args, pipeline, machine)]
    value = {
        "parameters": model.num_parameters,
        "gpus": machine.gpus,
        "gpu": machine.gpu,
        "gpu_memory_gb": machine.memory_gb,
        "distributed_optimizer": machine.distributed_optimizer,
        "stages": [one.resolved(args.show) for one in found],
    }
    world.put(value, lambda: _print(world, model, machine, found, args.show))
    problems = [f"{one.asked.node}: {one.problem}" for one in found if one.problem]
    if problems:
        raise ValueError("\n".join(problems))
    return 0


def _machine(args: argparse.Namespace) -> Machine:
    for option, value in (("--gpus", args.gpus), ("--gpu-memory", args.gpu_memory), ("--show", args.show)):
        if not value > 0:
            raise ValueError(f"{option} {value}: it must be more than 0")
    return Machine(args.gpus, args.gpu, args.gpu_memory, args.distributed_optimizer)


def _asked(args: argparse.Namespace, pipeline: Pipeline, machine: Machine) -> list[Asked]:
    """The stages that train, or the one wanted."""
    found = {}
    for name, node in pipeline.nodes.items():
        one = asked(
            name,
            KINDS[node.kind].parse(node.recipe, where=f"nodes.{name}.recipe"),
            _layout(args.layout, machine) if args.layout else node.resources.layout,
            distributed_optimizer=machine.distributed_optimizer,
        )
        if one is not None:
            found[name] = one
    wanted = args.node
    if wanted and wanted not in found:
        raise ValueError(
            f"--node {wanted}: no such stage that trains; there are {', '.join(found) or 'none'}"
        )
    return [found[wanted]] if wanted else list(found.values())


def _layout(text: str, machine: Machine) -> Layout | None:
    """The layout of the command line; None for any."""
    if text == ANY:
        return None
    try:
        values = tomllib.loads("\n".join(text.split(",")))
    except tomllib.TOMLDecodeError:
        raise ValueError(f"--layout {text}: write it as tensor=8,pipeline=2,sequence=true, or any") from None
    layout = Layout.parse(values, where="--layout")
    if "data" not in values:
        layout = layout.model_copy(update={"data": max(1, machine.gpus // layout.world)})
    return layout


def _print(world: World, model: Shape, machine: Machine, found: list[Found], shown: int) -> None:
    out = world.console
    size, gpus = f"{model.num_parameters / 1e9:.3g}B", f"{machine.gpus} × {machine.gpu}"
    out.print(f"{model.family}, {size} parameters, on {gpus} of {machine.memory_gb:g} GB")
    for one in found:
        work, training = one.asked.work, one.asked.training
        out.print(
            f"\n{one.asked.node}: rows of {work.row_tokens:,} tokens, {work.microbatch_tokens:,} in a "
            f"microbatch, {work.step_tokens:,} in a step, in {training.precision}"
        )
        if one.ways:
            out.print("as asked, and with recomputation the other way:")
            out.print(_table(one.ways, machine))
        if one.fitting and (one.problem or not one.ways):
            out.print("layouts that fit, in bfloat16:")
            out.print(_table(one.fitting[:shown], machine))
        out.print(f"{len(one.fitting)} of {one.num_possible} possible layouts fit", style="dim")


def _table(estimates: tuple[Estimate, ...], machine: Machine) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("layout", style="cyan")
    names = (
        "recompute",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "loss",
        "needed",
        "step",
        "tokens/s",
        "MFU",
    )
    for name in names:
        table.add_column(name, justify="right")
    for one in estimates:
        memory = one.memory
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.loss)
        table.add_row(
            str(one.layout),
            "yes" if one.training.recompute else "no",
            *(f"{part / GIB:.1f}" for part in parts),
            gigabytes(one.needed_bytes),
            f"{one.time.total:,.0f} s" if one.time.total >= 100 else f"{one.time.total:.3g} s",
            f"{one.tokens_per_s:,.0f}",
            f"{100 * one.mfu:.0f} %",
            style="" if one.needed_bytes <= machine.memory_bytes else "red",
        )
    return table
