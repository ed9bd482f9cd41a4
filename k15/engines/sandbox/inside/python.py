"""What a confined Python case does: run a script, serve calls of a solution, or run tests of one."""

import ast
import atexit
import builtins
import json
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from k15.values import decode, encode

CHANNEL = 3  # descriptor: answers out of `serve`, calls and answers of `tests`
FAILED = 1


def script(source: str) -> int:
    """Run a program as `python3 main.py` would; its exit code."""
    main = _module("__main__")
    sys.argv = ["main.py"]
    return _ended_by(lambda: exec(compile(source, "main.py", "exec"), main.__dict__))


def serve(source: str) -> int:
    """Load a solution, then answer calls: one a line on standard input or on the channel, until it ends.

    A call is {"name", "arguments"}; an answer {"value": tree} or {"error": class, "text": message}.
    """
    module, kept = _module("solution"), list[Any]()
    code = _ended_by(lambda: exec(compile(source, "solution.py", "exec"), module.__dict__))
    if code:
        return code

    def keep(item: Any) -> int:
        kept.append(item)
        return len(kept) - 1

    with os.fdopen(CHANNEL, "wb") as answers:
        for line in _lines(CHANNEL if os.fstat(0).st_size == 0 else 0):
            answer = _answer(module, json.loads(line), keep, kept.__getitem__)
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()
    return 0


def tests(source: str, function: str) -> int:
    """Run assertions about a solution that lives in another world; 0 where all hold.

    A name that the tests use and nobody defines is a function of the solution; so is `function`, whoever else
    has one of that name.
    """
    with os.fdopen(CHANNEL, "wb") as channel:
        remote = _Remote(channel)
        module, names = _module("tests"), free_names(source) | ({function} if function else set())
        module.__dict__.update({name: remote.function(name) for name in names})
        return _ended_by(lambda: exec(compile(source, "tests.py", "exec"), module.__dict__))


def free_names(source: str) -> set[str]:
    """Names that `source` reads and neither it nor Python defines."""
    read, bound = set[str](), set(dir(builtins))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return read - bound


class RemoteError(Exception):
    """The solution raised something that is no built-in exception, or it is gone."""


class _Remote:
    """The solution, as the tests see it."""

    def __init__(self, channel: BinaryIO) -> None:
        self._channel = channel
        self._answers = _lines(channel.fileno())

    def function(self, name: str) -> Callable[..., Any]:
        def ask(*arguments: Any, **named: Any) -> Any:
            call = {"name": name, "arguments": encode(arguments), "named": encode(named)}
            try:
                self._channel.write(json.dumps(call).encode() + b"\n")
                self._channel.flush()
                answer = json.loads(next(self._answers))
            except (OSError, StopIteration, ValueError) as error:
                raise RemoteError(f"the solution is gone: {type(error).__name__}") from None
            if "error" not in answer:
                return decode(answer["value"])
            kind = getattr(builtins, answer["error"], RemoteError)
            raise kind(answer["text"]) if issubclass(kind, Exception) else RemoteError(answer["text"])

        ask.__name__ = name
        return ask


def _answer(
    module: types.ModuleType, call: Any, keep: Callable[[Any], int], find: Callable[[int], Any]
) -> Any:
    try:
        arguments, named = (
            decode(call["arguments"], find),
            decode(call.get("named", {"tag": "dict", "of": []})),
        )
        if call["name"] not in module.__dict__:
            raise NameError(f"name {call['name']!r} is not defined")
        return {"value": encode(module.__dict__[call["name"]](*arguments, **named), keep)}
    except BaseException as error:  # noqa: BLE001  whatever a solution raises is its answer
        return {"error": type(error).__name__, "text": str(error)[:500]}


def _lines(descriptor: int) -> Iterator[bytes]:
    with os.fdopen(descriptor, "rb", closefd=False) as stream:
        yield from stream


def _module(name: str) -> types.ModuleType:
    """A module that runs in place of this program's own."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    for number, stream, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        opened = open(number, mode, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
        setattr(sys, stream, opened)
        setattr(sys, f"__{stream}__", opened)
    return module


def _ended_by(act: Callable[[], object]) -> int:
    """The exit code that Python gives `act`: threads joined, exit functions run, output flushed."""
    code = 0
    try:
        act()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001  reported as Python reports it
        traceback.print_exc()
        code = FAILED
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code & 0xFF
