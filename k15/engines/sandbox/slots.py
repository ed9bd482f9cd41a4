"""A warm slot: a container with a fork server inside, driven over one socket."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k15.engines.sandbox.cgroups import Cgroups
from k15.engines.sandbox.container import bubblewrap_command, crun_command

FRAME = struct.Struct("!BBI")
SIZE = struct.Struct("!I")
SUMMARY = 255
START_S = 20.0
GRACE_S = 5.0  # over a case's wall limit, which the slot keeps itself
MAX_FRAME_BYTES = 1 << 20
NOBODY = 65534  # under bubblewrap: no limit of processes holds for root
OUTPUT, ERRORS, ANSWERS = 1, 2, 3  # streams of a world


class SlotLostError(Exception):
    """The slot died, hung or spoke nonsense: whatever it was doing has no outcome."""


@dataclass(frozen=True, slots=True)
class World:
    """One world of an order: how the program runs, and the bytes that only that world may read."""

    mode: str  # "script" | "serve" | "tests" | "exec"
    body: Mapping[str, Any]
    feed: bytes = b""  # its standard input
    keep: str = ""  # a file to hand back once it ended well


@dataclass(frozen=True, slots=True)
class End:
    """How a world ended."""

    code: int | None  # exit code, negative for a signal; None where the world was killed first
    killed: str  # "" | "wall" | "output"
    cpu_s: float
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an order gave: how its worlds ended and what they wrote."""

    ends: tuple[End, ...]
    streams: Mapping[tuple[int, int], bytes]
    wall_s: float

    def stream(self, number: int, world: int = 0) -> bytes:
        """What a world wrote to a stream."""
        return self.streams.get((world, number), b"")


class Slot:
    """One container. Runs one order at a time; after a SlotLostError only `destroy` is of use."""

    def __init__(self, index: int, state: Path, root: Path, cgroups: Cgroups | None, **group: Any) -> None:
        """`cgroups` is None under bubblewrap; `group` are the limits of the slot's own."""
        self.index = index
        self.num_orders = 0
        self._state, self._root, self._cgroups, self._limits = state, root, cgroups, group
        self._groups: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    @property
    def pid(self) -> int:
        """The container runtime's process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Bring the container up; SlotLostError with the runtime's own words where it does not come."""
        ours, theirs = socket.socketpair()
        log = self._state / f"slot-{self.index}.log"
        if self._cgroups is None:
            command, env = bubblewrap_command(self._root)
        else:
            self._groups = self._cgroups.make(f"slot-{self.index}", **self._limits)
            command, env = crun_command(self._state, self._root, self.index, self._groups)
        nobody = NOBODY if self._cgroups is None and os.geteuid() == 0 else None
        with theirs, log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                env=env,
                stdin=theirs.fileno(),
                stdout=errors,
                stderr=errors,
                start_new_session=True,
                user=nobody,
                group=nobody,
                extra_groups=None if nobody is None else [],
            )
        ours.setblocking(False)
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 20)
        try:
            await asyncio.wait_for(self._frame(), START_S)
        except (SlotLostError, TimeoutError) as error:
            raise SlotLostError(f"a slot did not start: {log.read_text()[-800:] or error}") from None

    async def run(
        self, worlds: list[World], *, cpu_s: float, wall_s: float, output_bytes: int, **limits: int
    ) -> Outcome:
        """Run an order. SlotLostError, past `wall_s` and a grace too."""
        try:
            async with asyncio.timeout(wall_s + GRACE_S):
                return await self._run(worlds, cpu_s, wall_s, output_bytes, limits)
        except TimeoutError:
            raise SlotLostError("it did not answer in time") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SlotLostError(f"{type(error).__name__}: {error}") from None

    async def _run(
        self, worlds: list[World], cpu_s: float, wall_s: float, output_bytes: int, limits: dict[str, int]
    ) -> Outcome:
        assert self._writer is not None
        specs, parts = [], []
        for world in worlds:
            body = json.dumps(world.body).encode()
            parts += [body, world.feed]
            spec = {"mode": world.mode, "keep": world.keep, "num_body_bytes": len(body)}
            specs.append({**spec, "num_feed_bytes": len(world.feed), "cpu_s": cpu_s, **limits})
        order = json.dumps({"wall_s": wall_s, "output_bytes": output_bytes, "worlds": specs}).encode()
        self.num_orders += 1
        self._writer.write(b"".join([SIZE.pack(len(order)), order, *parts]))
        streams: dict[tuple[int, int], bytearray] = {}
        while (frame := await self._frame())[0] != SUMMARY:
            stream = streams.setdefault((frame[0], frame[1]), bytearray())
            stream += frame[2]
            if len(stream) > output_bytes:
                raise SlotLostError("it passed on more than it may")
        summary = json.loads(frame[2])
        ends = tuple(
            End(
                end.get("code", -signal.SIGKILL if not end["killed"] and end["first"] else None),
                str(end["killed"]),
                float(end.get("cpu_s", 0.0)),
                end.get("memory_bytes", 0) / (1 << 20),
            )
            for end in summary["worlds"]
        )
        return Outcome(ends, {key: bytes(data) for key, data in streams.items()}, float(summary["wall_s"]))

    async def _frame(self) -> tuple[int, int, bytes]:
        try:
            world, stream, size = FRAME.unpack(await self._reader.readexactly(FRAME.size))
            if size > MAX_FRAME_BYTES:
                raise SlotLostError("a frame is too long")
            return world, stream, await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise SlotLostError(f"it is gone ({type(error).__name__})") from None

    async def destroy(self) -> None:
        """End everything in the slot and take its groups away; a dead slot is no error."""
        if self._writer is not None:
            self._writer.close()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        """Idempotent."""
        if self._cgroups is not None and self._groups:
            self._cgroups.remove(self._groups)
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
