"""`k15 audit`: one document of a model for whoever answers for it; exit code 1 where bytes differ."""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from k15.cli.audit import find_ref
from k15.cli.world import Adder, World
from k15.report.audit import document, read
from k15.report.audit_page import audit_page
from k15.report.publish import publish_audit
from k15.store.manifest import CorruptArtifact

ODD = re.compile(r"[^\w.-]")  # in the name of a file


def add_commands(add: Adder) -> None:
    """`audit`."""
    command = add(
        "audit",
        audit,
        "write one document of a model: stages, data, licenses, figures, verification; exit code 1 where a "
        "byte differs",
        "k15 audit short",
        'k15 audit short --signed-by "A. Person" --out records',
        "k15 audit s3://k15/stages/3fa1… --no-upload --json",
    )
    text = "an s3:// address, a key or its beginning, or a node (default: the last run's final model)"
    command.add_argument("uri", nargs="?", default="", metavar="MODEL", help=text)
    command.add_argument("--signed-by", default="", metavar="NAME", help="record who signs it off today")
    command.add_argument(
        "--out", metavar="DIR", help="where to write audit-NODE.html and .json (default: K15_OUT, else out)"
    )
    command.add_argument("--no-upload", action="store_true", help="leave the store and MLflow as they are")


def audit(args: argparse.Namespace, world: World) -> int:
    """Gather, hash again, write, upload, say how it went."""
    try:
        audited = read(world.store, find_ref(world, args.uri))
    except CorruptArtifact as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with world.progress("verifying") as move:
        made = document(audited, signed_by=args.signed_by, progress=move)
    name = f"audit-{ODD.sub('_', audited.model.node)}"
    record = None if args.no_upload else audited.run
    folder = Path(args.out or world.environ.get("K15_OUT") or "out")
    paths = publish_audit(world.store, record, name, made, audit_page(made), folder)
    world.put(made, lambda: _print(world, made, paths))
    for problem in made["verification"]["problems"]:
        sys.stderr.write(f"{problem['uri']}: {problem['what']}\n")
    return 0 if made["verification"]["passed"] else 1


def _print(world: World, made: Mapping[str, Any], paths: list[str]) -> None:
    found, model = made["verification"], made["model"]
    outcome = "as recorded" if found["passed"] else f"{len(found['problems'])} problems"
    style = "green" if found["passed"] else "bold red"
    text = f"{model['name']}: {len(made['stages'])} stages, {found['bytes']:,} bytes hashed again: {outcome}"
    world.console.print(Text(text, style=style), soft_wrap=True)
    for path in paths:
        world.console.print(f"audit: {path}", soft_wrap=True)
    world.console.print(f"digest: {made['digest']}", soft_wrap=True)
