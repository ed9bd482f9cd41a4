"""Both ends of weight channels as processes, on this host or in a network namespace."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k15.records import WeightSource, WeightTicket
from tests.engines.channel_child import ticket_of

CHILD = Path(__file__).with_name("channel_child.py")
ROOT = Path(__file__).parents[2]


class End:
    """A trainer or a replica of tests/engines/channel_child.py."""

    def __init__(
        self, mode: str, transport: str, num_bytes: int, *, host: str, inside: Sequence[str] = ()
    ) -> None:
        self.midway = threading.Event()  # set when `answer` has heard it
        self.process = subprocess.Popen(
            [*inside, sys.executable, str(CHILD), mode, transport, host, str(num_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]},
        )

    def answer(self) -> Any:
        """The next line but "midway"; ConnectionError where it has ended."""
        while (said := self.line()) == "midway":
            self.midway.set()
        return said

    def line(self) -> Any:
        """The next line it says."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise ConnectionError(f"the process ended with exit code {self.process.wait()}")
        return json.loads(text)

    def tell(self, **call: Any) -> None:
        """Ask for something without waiting."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Kill it, if it lives."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # of a call that it never read
                pipe.close()


class Trainer(End):
    """Sends versions whose every value is one number."""

    def ready(self) -> "Trainer":
        """Wait until it is."""
        assert self.answer() == "ready"
        return self

    def send(self, version: int) -> WeightTicket:
        """Version n holds nothing but n."""
        self.tell(version=version, value=float(version))
        return ticket_of(self.answer())


class Replica(End):
    """Serves what it took; as k15.engines.fanout.Replica, `update` raises what it said."""

    copy: WeightSource | None = None
    state: dict[str, Any]

    def ready(self) -> "Replica":
        """Wait until it is."""
        source = self.answer()
        self.copy = source and WeightSource(**source)
        return self

    def ask(self, ticket: WeightTicket, *, deadline_s: float) -> None:
        """Let it take a version."""
        self.tell(ticket=dataclasses.asdict(ticket), deadline_s=deadline_s)

    def update(self, ticket: WeightTicket, *, deadline_s: float) -> None:
        """Let it take a version, and wait."""
        self.ask(ticket, deadline_s=deadline_s)
        self.settle()

    def settle(self) -> None:
        """Wait for the answer; raise the error it names."""
        self.state = self.answer()
        kind, _, message = self.state["error"].partition(": ")
        if kind:
            raise {"ValueError": ValueError, "TimeoutError": TimeoutError}.get(kind, ConnectionError)(message)

    def serves(self, version: int) -> bool:
        """Whether it serves that version, and all of it."""
        wanted = {"served": version, "value": float(version), "whole": True}
        return {name: self.state[name] for name in wanted} == wanted

    def still(self, seconds: float) -> bool:
        """Whether its buffer keeps every byte for so long."""
        self.tell(still_s=seconds)
        return bool(self.answer())
