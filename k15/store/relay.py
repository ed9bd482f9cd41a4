"""How a stage in a container without a network reaches the endpoints its job declares, and nothing else.

The container has loopback only. For every endpoint a Unix socket named `ADDRESS:PORT` lies in a folder
that both sides see: outside, the launcher passes what comes through it on to the endpoint; inside,

    python -m k15.store.relay FOLDER -- COMMAND …

listens on each of those loopback addresses, passes connections on to the sockets, and becomes COMMAND. Names
and certificates of the endpoints stay what they are: the container's hosts file points the names at loopback.
"""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

CHUNK_BYTES = 2**18
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Streams]]


class Relay:
    """Outside: passes connections of Unix sockets on to endpoints, from a thread, until it is closed."""

    def __init__(self, routes: dict[Path, tuple[str, int]]) -> None:
        """Listen at once; endpoints are dialled when a connection comes."""
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._listen(routes))
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()

    async def _listen(self, routes: dict[Path, tuple[str, int]]) -> None:
        for path, (host, port) in routes.items():

            def dial(host: str = host, port: int = port) -> Awaitable[Streams]:
                return asyncio.open_connection(host, port, limit=CHUNK_BYTES)

            await asyncio.start_unix_server(_passing(dial), path, limit=CHUNK_BYTES)
            path.chmod(0o600)

    def close(self) -> None:
        """No connection is passed on any more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


def _passing(dial: Dial) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """What to do with a connection: dial, and pass bytes both ways until both are done."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, here = await dial()
        except OSError:  # the endpoint is away: the stage sees a closed connection, and says so
            writer.close()
            return
        try:
            await asyncio.gather(_pump(reader, here), _pump(there, writer))
        except OSError:
            pass  # one side broke off
        finally:
            here.close()
            writer.close()

    return serve


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def listeners(folder: Path) -> dict[Path, socket.socket]:
    """Inside: for every socket of the folder a listener on the loopback address it is named after."""
    found = {}
    for path in sorted(folder.iterdir()):
        address, _, port = path.name.rpartition(":")
        found[path] = socket.create_server((address, int(port)), backlog=128)
    return found


async def _pass_on(found: dict[Path, socket.socket]) -> None:
    servers = []
    for path, listener in found.items():

        def dial(path: Path = path) -> Awaitable[Streams]:
            return asyncio.open_unix_connection(path, limit=CHUNK_BYTES)

        servers.append(await asyncio.start_server(_passing(dial), sock=listener, limit=CHUNK_BYTES))
    await asyncio.gather(*(server.serve_forever() for server in servers))


def main(arguments: list[str]) -> None:
    """Listen, leave a child to pass on, become the command. The container's end ends the child."""
    folder, _, *command = arguments
    found = listeners(Path(folder))
    if found and os.fork() == 0:
        asyncio.run(_pass_on(found))
    for listener in found.values():
        listener.close()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
