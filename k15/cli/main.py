"""The `k15` command: exit code 0 for done, 2 for bad input, 1 for a fault or a failed check."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from k15.cli import audit, auditing, look, planning, reporting, running, sizing
from k15.cli.world import Command, World, find_root

BAD_INPUT = 2
FAULT = 1
INTERRUPTED = 130

OVERVIEW = """\
examples:
  k15 plan tiny                      what a run would do, and why not everything
  k15 run tiny --set nodes.rl.recipe.rounds=40
  k15 why rl                         which field made it rerun
  k15 ls                             every artifact in the store
  k15 show rl                        manifest, rounds, first rows
  k15 lineage short                  back to the raw data
  k15 verify short                   re-hash every byte it was made from
  k15 audit short                    all of it in one document to sign off
  k15 size --model DIR --gpus 8 --gpu-memory 80    which layouts of GPUs fit
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    args = parser().parse_args(argv)
    command: Command = args.command
    try:
        root = Path(args.root).resolve() if args.root else find_root(Path.cwd())
        return command(args, World(root, dict(os.environ), args.json))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError) as error:
        return _failed(args, error, BAD_INPUT)
    except Exception as error:  # noqa: BLE001 (the process ends here; --debug shows the trace)
        return _failed(args, error, FAULT)


def parser() -> argparse.ArgumentParser:
    """Every command with its options and examples."""
    top = argparse.ArgumentParser(
        prog="k15",
        description="Plan, run and audit k1.5 training pipelines.",
        epilog=OVERVIEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    common.add_argument("--root", default="", metavar="DIR", help="the checkout (default: around you)")

    def add(name: str, command: Command, text: str, *examples: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            parents=[common],
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(command=command)
        return made

    planning.add_commands(add)
    running.add_commands(add)
    look.add_commands(add)
    audit.add_commands(add)
    auditing.add_commands(add)
    reporting.add_commands(add)
    sizing.add_commands(add)
    return top


def _failed(args: argparse.Namespace, error: Exception, code: int) -> int:
    if args.debug:
        traceback.print_exception(error)
    sys.stderr.write(f"k15: error: {error or type(error).__name__}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
