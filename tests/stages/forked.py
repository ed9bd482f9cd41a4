"""Stages in processes of their own that share one import: forked.py JOBS (JSON: kind, address) -> JSON.

Each is a fork that runs the stage as `python -m stages.<kind> --job …` does; the answer is a list of
[exit code, stdout, stderr].
"""

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

STAGES = {"sft": "SftRecipe", "base": "BaseRecipe"}


def ended(kind: str, uri: str, folder: Path) -> tuple[int, str, str]:
    """The stage's exit code and what it printed."""
    module = importlib.import_module(f"stages.{kind}")
    outputs = [folder / name for name in ("out", "err")]
    child = os.fork()
    if child == 0:
        for number, path in enumerate(outputs, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = [f"stages.{kind}", "--job", uri]
        try:
            module.run_stage(getattr(module, STAGES[kind]), module.body)
        except SystemExit as exit_:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(exit_.code or 0))
        os._exit(99)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), outputs[0].read_text(), outputs[1].read_text()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps([ended(kind, uri, Path(scratch)) for kind, uri in json.loads(sys.argv[1])]))
