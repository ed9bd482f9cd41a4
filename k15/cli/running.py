"""`k15 run`: becomes the flow's process, so signals and the exit code are the flow's own."""

import argparse
import os
import sys
from typing import NoReturn

from k15.cli.planning import add_recipe
from k15.cli.world import Adder, World, recipe_path
from k15.store.plan import load_pipeline


def add_commands(add: Adder) -> None:
    """`run`."""
    command = add(
        "run",
        run,
        "run a pipeline on the Prefect server; finished stages are skipped",
        "k15 run tiny",
        "k15 run recipes/smollm2/pipeline.toml",
        "k15 run tiny --set nodes.rl.recipe.rounds=40 --set nodes.rl.resources.cores=2",
        "k15 run tiny --strict     also rerun stages whose code changed",
    )
    add_recipe(command)
    command.add_argument("--strict", action="store_true", help="rerun stages whose code changed")


def run(args: argparse.Namespace, world: World) -> NoReturn:
    """Check the recipe and the store, then replace this process by the flow's."""
    path = recipe_path(world.root, args.recipe).resolve()
    load_pipeline(path, args.set, world.root)
    world.store.objects.check()
    shown = path.relative_to(world.root) if path.is_relative_to(world.root) else path
    command = [sys.executable, "-m", "flows.pipeline", str(shown)]
    command += [f"--set={text}" for text in args.set]
    command += ["--strict"] * args.strict + ["--json"] * args.json + ["--debug"] * args.debug
    os.chdir(world.root)
    sys.stdout.flush()
    os.execve(sys.executable, command, world.services)
