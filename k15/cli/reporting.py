"""`k15 report`: one page and one JSON file of a run, and its table of models on the terminal."""

import argparse
from pathlib import Path

from k15.cli.world import Adder, World
from k15.report.facts import RunFacts, collect
from k15.report.page import page
from k15.report.publish import publish
from k15.report.terminal import models_table, summary_lines
from k15.report.values import report_json
from k15.store.runs import latest_run, read_run


def add_commands(add: Adder) -> None:
    """`report`."""
    command = add(
        "report",
        report,
        "build report.html and report.json of a run, and print its table of models",
        "k15 report",
        "k15 report --run 20261122-101500-3fa1c2 --out out",
    )
    command.add_argument(
        "--run", default="", metavar="ID", help="a run of `k15 ls --runs` (default: the last)"
    )
    command.add_argument(
        "--out", metavar="DIR", help="where to write it (default: what K15_OUT names, else out)"
    )
    command.add_argument("--no-upload", action="store_true", help="leave the store and MLflow as they are")


def report(args: argparse.Namespace, world: World) -> int:
    """Collect, write, upload, print."""
    record = read_run(world.store, args.run) if args.run else latest_run(world.store)
    facts = collect(world.store, record)
    values, html = report_json(facts), page(facts)
    files = publish(
        world.store,
        facts,
        values,
        html,
        Path(args.out or world.environ.get("K15_OUT") or "out"),
        upload=not args.no_upload,
    )
    world.put(values, lambda: _print(world, facts, files["report.html"]))
    return 0


def _print(world: World, facts: RunFacts, path: str) -> None:
    if facts.models:
        world.console.print(models_table(facts))
    for line in summary_lines(facts):
        world.console.print(line, soft_wrap=True)
    world.console.print(f"model: {facts.model_uri or 'none'}", soft_wrap=True)
    world.console.print(f"report: {path}", soft_wrap=True)
