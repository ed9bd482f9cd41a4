"""`k15 run`: becomes the flow's process, so signals and the exit code are the flow's own."""

import argparse
import os
import sys
from typing import NoReturn
from urllib.parse import urlsplit

import httpx

from k15.cli.planning import add_recipe
from k15.cli.world import Adder, World, recipe_path
from k15.store.tracking import LOOPBACK

PREFECT_TIMEOUT_S = 10.0


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
        "k15 run tiny --runtime docker     every stage in a container",
    )
    add_recipe(command)
    command.add_argument("--strict", action="store_true", help="rerun stages whose code changed")
    command.add_argument(
        "--runtime",
        choices=("process", "docker"),
        default="process",
        help="where stages run; docker: in containers of the image K15_IMAGE (made by `make images`)",
    )


def run(args: argparse.Namespace, world: World) -> NoReturn:
    """Replace this process by the flow's, which checks recipe and store before it starts anything."""
    path = recipe_path(world.root, args.recipe).resolve()
    services = world.services("s3", "prefect", "mlflow")
    check_prefect(services["PREFECT_API_URL"])
    shown = path.relative_to(world.root) if path.is_relative_to(world.root) else path
    command = [sys.executable, "-m", "flows.pipeline", str(shown), f"--runtime={args.runtime}"]
    command += [f"--set={text}" for text in args.set]
    command += ["--strict"] * args.strict + ["--json"] * args.json + ["--debug"] * args.debug
    os.chdir(world.root)
    sys.stdout.flush()
    os.execve(sys.executable, command, services)


def check_prefect(api_url: str) -> None:
    """ValueError where no Prefect server answers; any answer will do, refusals are the flow's to tell."""
    trust_env = urlsplit(api_url).hostname not in LOOPBACK  # a proxy is for servers elsewhere
    try:
        httpx.get(f"{api_url.rstrip('/')}/health", timeout=PREFECT_TIMEOUT_S, trust_env=trust_env)
    except httpx.HTTPError as error:
        raise ValueError(
            f"PREFECT_API_URL={api_url}: no answer ({type(error).__name__}); `make up` starts the local "
            "server, or set it to yours"
        ) from None
