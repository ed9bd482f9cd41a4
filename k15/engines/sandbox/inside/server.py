"""The fork server: process 1 of a slot. It starts worlds and passes on what they write, one order at a time.

An order: 4 bytes of length, JSON {"wall_s", "output_bytes", "worlds": [spec, …]}, then every world's bytes,
which only that world reads. The answer: frames of (world, stream, length) and bytes; last a frame of world
255 that says how each world ended. No byte of a program, a test or an output stays in this process's memory:
worlds are forked from it, and one case must not read another's. It ends when its control socket does.
"""

import gc
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from typing import Any

from k15.engines.sandbox.inside.world import CONFINED, World, open_world

CONTROL = 0
FRAME = struct.Struct("!BBI")
SIZE = struct.Struct("!I")
SUMMARY = 255
REPORT, BUFFER_BYTES = 0, 1 << 16
# What programs import most, imported once for all of them.
WARM = (
    "array bisect cmath collections collections.abc copy datetime decimal enum fractions functools hashlib"
    " heapq io itertools json math numbers operator queue random re statistics string struct sys time typing"
)


def main() -> None:
    """Serve until the service goes away."""
    for name in WARM.split():
        __import__(name)
    control = socket.socket(fileno=os.dup(CONTROL))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(control.fileno(), 5)
    del control
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    buffer = bytearray(BUFFER_BYTES)
    gc.collect()
    gc.freeze()
    _send(5, SUMMARY, 0, b"{}")
    while header := _read(5, SIZE.size):
        order = json.loads(_read(5, SIZE.unpack(header)[0]))
        random.seed()
        _send(5, SUMMARY, 0, json.dumps(_perform(order, 5, buffer)).encode())


def _perform(order: dict[str, Any], control: int, buffer: bytearray) -> dict[str, Any]:
    """Run an order's worlds to their ends."""
    specs = order["worlds"]
    pair = socket.socketpair() if len(specs) == 2 else None
    worlds: list[World] = []
    for number, spec in enumerate(specs):
        worlds.append(open_world(spec, control, pair[number] if pair else None, number))
    for end in pair or ():
        end.close()
    began_s = time.monotonic()
    case = _Case(worlds, control, buffer, order["output_bytes"])
    case.pump(began_s + order["wall_s"])
    return {"worlds": case.ends(), "wall_s": time.monotonic() - began_s}


class _Case:
    """Worlds under way: their last one's end, the deadline or a flood of output ends them all."""

    def __init__(self, worlds: list[World], control: int, buffer: bytearray, most: int) -> None:
        self._worlds, self._control, self._buffer, self._most = worlds, control, buffer, most
        self._owners = {fd: (w, s) for w, world in enumerate(worlds) for fd, s in world.streams.items()}
        self._counts = dict.fromkeys(self._owners.values(), 0)
        self._reports = [b""] * len(worlds)
        self._killed = ""
        self._poller = select.poll()
        for descriptor in self._owners:
            self._poller.register(descriptor, select.POLLIN)
        self._poller.register(control, select.POLLRDHUP)

    def pump(self, deadline_s: float) -> None:
        """Pass on outputs until every process of the worlds is gone."""
        while self._owners:
            left_ms = None if self._killed else max(0.0, deadline_s - time.monotonic()) * 1e3
            events = self._poller.poll(left_ms)
            if not events:
                self._kill("wall")
            for descriptor, _ in events:
                if descriptor == self._control:
                    os._exit(0)  # the service is gone: with process 1 the whole slot ends
                self._pass_on(descriptor)

    def ends(self) -> list[dict[str, Any]]:
        """How each world ended; RuntimeError where one was never made as it should."""
        ends = []
        for world, told in zip(self._worlds, self._reports, strict=True):
            _, status = os.waitpid(world.pid, 0)
            before, _, report = told.partition(CONFINED)
            if before or not (report or self._killed or status):
                raise RuntimeError(f"a world was not made: {told.decode()}")
            killed = self._killed if self._killed != "last" else ""
            ends.append({"killed": killed, "first": status, **(json.loads(report) if report else {})})
        return ends

    def _pass_on(self, descriptor: int) -> None:
        world, stream = self._owners[descriptor]
        num_bytes = os.readv(descriptor, [self._buffer])
        if not num_bytes:
            self._poller.unregister(descriptor)
            os.close(descriptor)
            del self._owners[descriptor]
            if stream == REPORT and world == len(self._worlds) - 1 > 0:
                self._kill("last")
            return
        self._counts[world, stream] += num_bytes
        if stream == REPORT:  # made by our own process, never by a program
            self._reports[world] += bytes(self._buffer[:num_bytes])
        elif self._counts[world, stream] > self._most:
            self._kill("output")
        elif not self._killed:
            _send(self._control, world, stream, memoryview(self._buffer)[:num_bytes])
        self._buffer[:num_bytes] = bytes(num_bytes)

    def _kill(self, why: str) -> None:
        """End every world, once."""
        if not self._killed:
            self._killed = why
            for world in self._worlds:
                os.kill(world.pid, signal.SIGKILL)


def _send(control: int, world: int, stream: int, data: bytes | memoryview) -> None:
    for part in (FRAME.pack(world, stream, len(data)), data):
        rest = memoryview(part)
        while rest.nbytes:
            rest = rest[os.write(control, rest) :]


def _read(descriptor: int, num_bytes: int) -> bytes:
    """Exactly so many bytes; ends this process where the service went away."""
    data = b""
    while len(data) < num_bytes:
        chunk = os.read(descriptor, num_bytes - len(data))
        if not chunk:
            sys.exit(0)
        data += chunk
    return data


if __name__ == "__main__":
    main()
