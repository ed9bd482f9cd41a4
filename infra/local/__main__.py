"""`python -m infra.local up|down|status [--json]`: exit code 2 and one message on bad input."""

import argparse
import json
import os
import sys
from pathlib import Path

from infra.local import stack
from infra.setup import disk_problem
from k15.store.local import home


def main() -> int:
    """Run one command on this checkout's stack."""
    parser = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--json", action="store_true", help="status as JSON")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the checkout; its .k15 holds the data")
    arguments = parser.parse_args()
    try:
        if arguments.command == "up":
            stack.up(arguments.root.resolve(), os.environ)
        elif arguments.command == "down":
            stack.down(arguments.root.resolve())
        else:
            show(stack.status(arguments.root.resolve()), as_json=arguments.json)
    except ValueError as error:
        print(f"services: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"services: {disk_problem(error, home(arguments.root))}", file=sys.stderr)
        return 2
    return 0


def show(rows: dict[str, dict[str, object]], *, as_json: bool) -> None:
    """Print the status."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for name, row in rows.items():
        print(f"{name:8} {'up  ' if row['healthy'] else 'down'} {row['url']} pid={row['pid']}")


if __name__ == "__main__":
    sys.exit(main())
