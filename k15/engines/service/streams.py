"""Answers that come in parts: frames over one chunked HTTP response.

A frame is 4 bytes of length, big-endian, then msgpack of [status, body]. Status 200 is one more part, 204 the
end; any other one is the end too, and its body a Failure.
"""

import asyncio
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec

LENGTH = struct.Struct(">I")
PART, END = 200, 204


def frame(status: int, body: Any) -> bytes:
    """One frame."""
    payload = msgspec.msgpack.encode((status, body))
    return LENGTH.pack(len(payload)) + payload


class Stream:
    """One call under way: parts are made on the engine's thread and sent on the server's."""

    def __init__(self, run: Callable[[Any], Iterator[Any]], body: Any) -> None:
        """`run(body)` gives the parts; None for none yet."""
        self._run, self._body = run, body
        self._parts: Iterator[Any] | None = None
        self._gone = threading.Event()  # the caller went away
        self._loop = asyncio.get_running_loop()
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()

    def advance(self) -> bool:
        """Make the next part; False where that was the end. What the call raises is raised here."""
        if self._parts is None:
            self._parts = self._run(self._body)
        if self._gone.is_set():
            self.close()
            return False
        try:
            part = next(self._parts)
        except StopIteration:
            self.end(END, None)
            return False
        if part is not None:
            self._put(frame(PART, part))
        return True

    def end(self, status: int, body: Any) -> None:
        """Send the last frame."""
        self._put(frame(status, body))
        self._put(None)

    def close(self) -> None:
        """Give up what the call holds."""
        if self._parts is not None:
            self._parts.close()  # type: ignore[attr-defined]  # a generator

    async def frames(self) -> AsyncIterator[bytes]:
        """The frames as they are made; a caller that goes away ends the call at its next part."""
        try:
            while (chunk := await self._frames.get()) is not None:
                yield chunk
        finally:
            self._gone.set()

    def _put(self, chunk: bytes | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._frames.put_nowait, chunk)
