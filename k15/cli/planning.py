"""`k15 plan` and `k15 why`: what a run would do, and which field made it so."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from k15.cli.world import Adder, World
from k15.store.graph import short
from k15.store.plan import Change, Explanation, PlanRow, plan, why

STYLES = {"done": "green", "will run": "yellow", "decided later": "dim"}
DEFAULT_RECIPE = "tiny"
SHOWN = 3  # changes of a node in the plan


def add_commands(add: Adder) -> None:
    """`plan` and `why`."""
    command = add(
        "plan",
        show_plan,
        "say what a run would do: done, will run, or decided once its producers are done",
        "k15 plan tiny",
        "k15 plan recipes/smollm2/pipeline.toml --json",
        "k15 plan tiny --set nodes.rl.recipe.update.tau=0.2",
        "k15 plan tiny --strict    count a result of other code as not done",
    )
    add_recipe(command)
    command.add_argument("--strict", action="store_true", help="stages whose code changed will run")
    command = add(
        "why",
        show_why,
        "say which recipe field, input or version makes a stage run again",
        "k15 why rl",
        "k15 why rl --recipe tiny --set nodes.rl.recipe.rounds=40",
    )
    command.add_argument("node", help="a node of the pipeline")
    add_recipe(command, option="--recipe")


def add_recipe(command: argparse.ArgumentParser, option: str = "") -> None:
    """The recipe and its overrides, as `plan`, `why` and `run` take them."""
    text = f"a pipeline file, or a folder's name under recipes/ (default {DEFAULT_RECIPE})"
    if option:
        command.add_argument(option, default=DEFAULT_RECIPE, metavar="RECIPE", help=text)
    else:
        command.add_argument("recipe", nargs="?", default=DEFAULT_RECIPE, help=text)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="override a field of the file, e.g. nodes.rl.recipe.rounds=40; may be repeated",
    )


def show_plan(args: argparse.Namespace, world: World) -> int:
    """The plan, and a warning for every stage whose code changed without its version."""
    rows = plan(world.store, world.pipeline(args), world.root, strict=args.strict)
    world.put([asdict(row) for row in rows], lambda: world.console.print(_plan_table(rows)))
    stale = [row.node for row in rows if row.code_changed and row.status == "done"]
    if stale:
        sys.stderr.write(
            f"k15: warning: {', '.join(stale)}: the code changed since this result was made, its version did "
            "not; raise the version in the stage's recipe class, or rerun with --strict\n"
        )
    return 0


def show_why(args: argparse.Namespace, world: World) -> int:
    """Why one node is done or will run."""
    found = why(world.store, world.pipeline(args), args.node, world.root)
    world.put(found.resolved(), lambda: _print_why(world, found))
    return 0


def _plan_table(rows: Sequence[PlanRow]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("node", style="cyan")
    for name in ("kind", "status", "key", "because"):
        table.add_column(name)
    for row in rows:
        status = Text(row.status, style=STYLES[row.status])
        table.add_row(row.node, row.kind, status, short(row.key), _because(row))
    return table


def _because(row: PlanRow) -> str:
    reasons = [_shown(change) for change in row.changed[:SHOWN]]
    if len(row.changed) > SHOWN:
        reasons.append(f"{len(row.changed) - SHOWN} more (k15 why {row.node})")
    if row.waits_for:
        reasons.append("after " + ", ".join(row.waits_for))
    if row.code_changed:
        reasons.append("code changed")
    if row.status == "will run" and not reasons:
        reasons.append("never ran here")
    return "; ".join(reasons)


def _shown(change: Change) -> str:
    return f"{change.field}: {_value(change.before)} → {_value(change.after)}"


def _value(value: Any) -> str:
    if isinstance(value, str) and value.startswith("sha256:"):
        return short(value)
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _print_why(world: World, found: Explanation) -> None:
    row, out = found.row, world.console
    out.print(Text.assemble((row.node, "bold cyan"), f" ({row.kind})  ", (row.status, STYLES[row.status])))
    if found.against_key and row.status != "done":
        out.print(f"against  {world.store.uri(found.against_key)}", soft_wrap=True)
    for reason in found.reasons:
        out.print(Text(f"  {reason}"), soft_wrap=True)
