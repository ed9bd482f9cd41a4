"""`k15 lineage`, `k15 verify`, `k15 gc`: where a result comes from, if it still is that, what may go."""

import argparse
import re
import sys
from dataclasses import asdict

from rich.text import Text

from k15.cli.look import human_size
from k15.cli.world import Adder, World
from k15.store.gc import GRACE_S, Garbage, gc
from k15.store.graph import graph_of, mermaid, upstream
from k15.store.manifest import CorruptArtifact, InputRef
from k15.store.reindex import reindex
from k15.store.runs import latest_run
from k15.store.tree import lineage, render, verify

EXPERIMENT = "k15"
SHOWN = 12
WHOLE_KEY = re.compile(r"[0-9a-f]{64}")


def add_commands(add: Adder) -> None:
    """`lineage`, `verify` and `gc`."""
    uri = "an s3:// address, a key or its beginning, or a node (default: the last run's final model)"
    command = add(
        "lineage",
        show_lineage,
        "print what an artifact was made from, back to the raw data",
        "k15 lineage",
        "k15 lineage short --mermaid > lineage.mmd",
        "k15 lineage --reindex     rebuild MLflow's runs, models and data sets from the store",
    )
    command.add_argument("uri", nargs="?", default="", help=uri)
    command.add_argument("--mermaid", action="store_true", help="print the graph as Mermaid text")
    command.add_argument("--reindex", action="store_true", help="write what MLflow lacks; needs no URI")
    command.add_argument("--experiment", default=EXPERIMENT, help=f"MLflow's, for --reindex ({EXPERIMENT})")
    command = add(
        "verify",
        show_verify,
        "hash every byte an artifact was made from again; exit code 1 where one differs",
        "k15 verify",
        "k15 verify s3://k15/stages/3fa1… --json",
    )
    command.add_argument("uri", nargs="?", default="", help=uri)
    command = add(
        "gc",
        show_gc,
        "remove what no artifact, live lease, round or step checkpoint needs; artifacts only with --keep",
        "k15 gc --dry-run",
        "k15 gc --keep short --keep evaluate     only these, and all they were made from, stay",
    )
    command.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    command.add_argument(
        "--keep", action="append", metavar="URI", help="sweep artifacts too, except this one"
    )
    command.add_argument("--grace-s", type=float, default=GRACE_S, help="leave what is younger (3600)")


def show_lineage(args: argparse.Namespace, world: World) -> int:
    """The tree, or the graph as Mermaid, or MLflow filled again."""
    if args.reindex:
        return _reindex(args, world)
    ref = find_ref(world, args.uri)
    if args.mermaid:
        known = {manifest.key: manifest for manifest in world.store.manifests()}
        text = mermaid(graph_of(upstream(known, [ref.key])))
        world.put({"mermaid": text}, lambda: world.console.print(Text(text), soft_wrap=True, end=""))
        return 0
    tree = lineage(world.store, ref)
    world.put(tree.resolved(), lambda: world.console.print(Text(render(tree)), soft_wrap=True))
    return 0


def show_verify(args: argparse.Namespace, world: World) -> int:
    """Every problem by its URI; 1 where there is one."""
    try:
        ref = find_ref(world, args.uri)
    except CorruptArtifact as error:
        sys.stderr.write(f"{error}\n")
        return 1
    uri = world.store.uri(ref.key, ref.part)
    hashed = 0

    with world.progress("verifying") as move:

        def count(done: int, total: int) -> None:
            nonlocal hashed
            hashed = done
            move(done, total)

        problems = verify(world.store, ref, count)
    value = {"uri": uri, "bytes": hashed, "problems": [asdict(problem) for problem in problems]}
    world.put(value, lambda: _print_verified(world, uri, hashed, [problem.what for problem in problems]))
    for problem in problems:
        if problem.uri not in problem.what:
            sys.stderr.write(f"{problem.uri}: ")
        sys.stderr.write(f"{problem.what}\n")
    return 1 if problems else 0


def show_gc(args: argparse.Namespace, world: World) -> int:
    """The sweep."""
    garbage = gc(world.store, args.keep, dry_run=args.dry_run, grace_s=args.grace_s)
    world.put(asdict(garbage), lambda: _print_garbage(world, garbage))
    return 0


def find_ref(world: World, text: str) -> InputRef:
    """The artifact meant; a whole key is looked up alone, so that damage elsewhere does not hide it."""
    key = (text or _final(world)).removeprefix(world.store.uri(""))
    manifest = world.store.manifest(key) if WHOLE_KEY.fullmatch(key) else None
    return manifest.ref() if manifest else world.store.find(text or key)


def _final(world: World) -> str:
    record = latest_run(world.store)
    if not record.final_key:
        text = f"run {record.run_id} has no final model yet; name an artifact (`k15 ls` shows them)"
        raise ValueError(text)
    return record.final_key


def _reindex(args: argparse.Namespace, world: World) -> int:
    with world.tracking() as server, world.progress("reindexing") as move:
        found = reindex(world.store, server, args.experiment, move)
    text = f"MLflow at {server.uri}: {found.stages_written} of {found.stages} stages written"
    text += f", {found.runs} runs, champions: {', '.join(found.models) or 'none'}"
    world.put(found.resolved(), lambda: world.console.print(text, soft_wrap=True))
    return 0


def _print_verified(world: World, uri: str, hashed: int, problems: list[str]) -> None:
    if problems:
        text = Text(f"{len(problems)} problems under {uri}", style="bold red")
    else:
        text = Text(f"{uri}: {human_size(hashed)} upstream as committed", style="green")
    world.console.print(text, soft_wrap=True)


def _print_garbage(world: World, garbage: Garbage) -> None:
    verb = "would remove" if garbage.dry_run else "removed"
    size = human_size(garbage.num_bytes)
    groups = {"artifacts": garbage.stages, "attempts": garbage.attempts, "other objects": garbage.others}
    for name, rows in groups.items():
        for row in rows[:SHOWN]:
            world.console.print(Text(f"  {name}: {row}"), soft_wrap=True)
        if len(rows) > SHOWN:
            world.console.print(f"  {name}: … {len(rows) - SHOWN} more (--json shows all)")
    counts = ", ".join(f"{len(rows)} {name}" for name, rows in groups.items())
    world.console.print(f"{verb} {counts}, {garbage.num_uploads} unfinished uploads: {size}")
