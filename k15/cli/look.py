"""`k15 ls` and `k15 show`: what the store holds."""

import argparse
import json
import math
from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

from k15.cli.rounds import is_round, show_round
from k15.cli.world import Adder, World
from k15.store.artifact import Artifact
from k15.store.graph import short
from k15.store.manifest import FileEntry, InputRef, Manifest, RoundManifest
from k15.store.runs import RunRecord, run_records

PREVIEW_BYTES = 4 * 2**20  # files above this are listed, not opened
JSON_LINES = 12
CELL = 60
MAX_COLUMNS = 8


def add_commands(add: Adder) -> None:
    """`ls` and `show`."""
    command = add("ls", ls, "list artifacts, or pipeline runs", "k15 ls", "k15 ls rl", "k15 ls --runs --json")
    command.add_argument("node", nargs="?", default="", help="only artifacts of this node or kind")
    command.add_argument("--runs", action="store_true", help="list pipeline runs instead")
    command = add(
        "show",
        show,
        "preview an artifact: manifest, rounds, first rows of its tables, model config",
        "k15 show rl                      the newest artifact of node rl",
        "k15 show data:heldout",
        "k15 show s3://k15/stages/3fa1…/model",
        "k15 show rl --round -1           a round's figures, and its trajectories with their segments",
    )
    command.add_argument(
        "uri", help="an s3:// address, a key or its beginning, or a node; :part for a folder"
    )
    command.add_argument(
        "--rows", type=int, default=5, help="rows of each table, groups of a round (default 5)"
    )
    command.add_argument("--round", type=int, help="a round of an RL stage, at work or done; -1 is the last")


def ls(args: argparse.Namespace, world: World) -> int:
    """Artifacts oldest first, or runs."""
    if args.runs:
        records = run_records(world.store)
        values = [record.resolved() for record in records]
        world.put(values, lambda: world.console.print(_runs_table(records) if records else _nothing(world)))
        return 0
    wanted = [m for m in world.store.manifests() if args.node in ("", m.node, m.kind)]
    rows = [_artifact_row(world, manifest) for manifest in wanted]
    world.put(rows, lambda: world.console.print(_artifacts_table(wanted) if wanted else _nothing(world)))
    return 0


def show(args: argparse.Namespace, world: World) -> int:
    """One artifact, or one round of a stage."""
    if args.round is not None or is_round(args.uri):
        return show_round(world, args.uri, args.round, args.rows)
    ref = world.store.find(args.uri)
    artifact = world.store.open(ref)
    rounds = [] if ref.raw or ref.part else world.store.rounds(ref.key)
    previews = {entry.path: preview(artifact, entry, args.rows) for entry in artifact.files}
    value = {
        "uri": artifact.uri,
        "digest": ref.digest,
        "manifest": artifact.manifest.resolved() if artifact.manifest else None,
        "rounds": [record.resolved() for record in rounds],
        "previews": {path: shown for path, shown in previews.items() if shown is not None},
    }
    world.put(value, lambda: _print_artifact(world, ref, artifact, rounds, previews))
    return 0


def preview(artifact: Artifact, entry: FileEntry, rows: int) -> Any:
    """The beginning of a file as plain values; None for what is too large or is no text and no table."""
    if entry.size > PREVIEW_BYTES:
        return None
    if entry.path.endswith(".parquet"):
        return artifact.read_table(entry.path).slice(0, rows).to_pylist()
    if entry.path.endswith(".jsonl"):
        lines = artifact.read_bytes(entry.path).decode().splitlines()
        return [json.loads(line) for line in lines[:rows]]
    if entry.path.endswith(".json") and "tokenizer" not in entry.path and "index" not in entry.path:
        return artifact.read_json(entry.path)
    return None


def human_size(num_bytes: float) -> str:
    """Bytes for people: 1.5 MB."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    power = min(3, int(math.log(num_bytes, 1000)))
    return f"{num_bytes / 1000**power:.1f} {'_kMG'[power]}B"


def _nothing(world: World) -> str:
    return f"nothing yet in {world.store.objects.settings.root}; `k15 run RECIPE` starts a pipeline"


def _artifact_row(world: World, manifest: Manifest) -> dict[str, Any]:
    return {
        "node": manifest.node,
        "kind": manifest.kind,
        "key": manifest.key,
        "uri": world.store.uri(manifest.key),
        "digest": manifest.digest,
        "ended": manifest.provenance.ended,
        "seconds": manifest.provenance.seconds,
        "bytes": sum(entry.size for entry in manifest.files),
        "run_id": manifest.provenance.run_id,
        "summary": manifest.summary,
    }


def _artifacts_table(manifests: Iterable[Manifest]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("node", "kind", "key", "digest", "ended"):
        table.add_column(name, style="cyan" if name == "node" else "")
    table.add_column("seconds", justify="right")
    table.add_column("size", justify="right")
    table.add_column("run", style="dim")
    for manifest in manifests:
        provenance = manifest.provenance
        size = human_size(sum(entry.size for entry in manifest.files))
        names = (manifest.node, manifest.kind, short(manifest.key), short(manifest.digest))
        ended, seconds = provenance.ended[:19], f"{provenance.seconds:.1f}"
        table.add_row(*names, ended, seconds, size, provenance.run_id)
    return table


def _print_artifact(
    world: World, ref: InputRef, artifact: Artifact, rounds: list[RoundManifest], previews: dict[str, Any]
) -> None:
    out = world.console
    out.print(Text(artifact.uri, style="bold cyan"), soft_wrap=True)
    out.print(f"digest   {ref.digest}", soft_wrap=True)
    if artifact.manifest:
        _print_manifest(world, artifact.manifest)
    if rounds:
        last = rounds[-1]
        out.print(f"rounds   {len(rounds)} committed, the last ({last.number}) at {last.committed[:19]}")
    for entry in artifact.files:
        out.print(f"\n[bold]{entry.path}[/bold]  {human_size(entry.size)}  [dim]{short(entry.sha256)}[/dim]")
        shown = previews[entry.path]
        if isinstance(shown, list) and shown and len(shown[0]) > MAX_COLUMNS:
            for row in shown:
                text = "  ".join(f"{name}={_cell(value)}" for name, value in row.items())
                out.print(Text(f"  {text}"))
        elif isinstance(shown, list) and shown and isinstance(shown[0], dict):
            out.print(_rows_table(shown))
        elif shown is not None:
            lines = json.dumps(shown, indent=1, ensure_ascii=False).splitlines()
            more = [f"… {len(lines) - JSON_LINES} more lines: --json"] if len(lines) > JSON_LINES else []
            out.print(Text("\n".join("  " + line for line in lines[:JSON_LINES] + more)), soft_wrap=True)


def _print_manifest(world: World, manifest: Manifest) -> None:
    out, provenance = world.console, manifest.provenance
    out.print(f"stage    {manifest.node} ({manifest.kind}, version {manifest.version})")
    out.print(f"made     {provenance.ended[:19]} in {provenance.seconds:.1f} s on {provenance.host}")
    dirty = " with uncommitted changes" if provenance.dirty else ""
    commit, image = provenance.commit or "unknown", provenance.image_digest or "none"
    out.print(f"code     commit {commit}{dirty}, image {image}")
    for role, ref in sorted(manifest.inputs.items()):
        where = f"raw/{short(ref.key)}" if ref.raw else f"{short(ref.key)}:{ref.part}".rstrip(":")
        out.print(f"input    {role} = {where}  [dim]{short(ref.digest)}[/dim]")
    for name, value in sorted(manifest.summary.items()):
        out.print(f"summary  {name} = {value:g}")


def _rows_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    names = list(rows[0])
    for name in names:
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=CELL)
    for row in rows:
        table.add_row("", *(Text(_cell(row.get(name))) for name in names))
    return table


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("\n", "⏎")


def _runs_table(records: Iterable[RunRecord]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("run", "pipeline", "state", "started", "ended", "stages"):
        table.add_column(name)
    for record in records:
        cached = sum(node.cached for node in record.nodes.values())
        stages = f"{len(record.nodes)} ({cached} cached)"
        times = record.started[:19], record.ended[:19]
        table.add_row(record.run_id, record.pipeline, record.state, *times, stages)
    return table
