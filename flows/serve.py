"""Serve a recipe as a Prefect deployment: runs by schedule, and Run, Retry and Cancel in the UI.

`python -m flows.serve recipes/tiny/pipeline.toml [--cron "0 3 * * *"] [--set A.B=C …]`, until Ctrl-C.
"""

import argparse
import os
import sys
from pathlib import Path

from k15.store.local import environment
from k15.store.plan import load_pipeline


def main() -> int:
    """Check the recipe, then serve it. Exit code 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description="Serve a pipeline on Prefect.")
    parser.add_argument("recipe", help="a pipeline's TOML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override a field of the recipe"
    )
    parser.add_argument("--cron", default=None, help="a schedule in UTC, for example '0 3 * * *'")
    arguments = parser.parse_args()
    try:
        name = load_pipeline(Path(arguments.recipe), arguments.set).name
        os.environ.update(environment(Path.cwd(), os.environ))
        from flows.deployment import deploy, serve  # noqa: PLC0415 (Prefect reads its settings when imported)

        server = deploy(name, arguments.recipe, arguments.set, arguments.cron)
    except ValueError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    serve(server)
    return 0


if __name__ == "__main__":
    sys.exit(main())
