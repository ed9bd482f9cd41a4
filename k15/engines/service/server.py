"""One engine behind HTTP: uvicorn on a thread of its own, the engine's work on the main thread.

Calls run one by one. Those that stream take turns, a step each, and other calls come between their steps.
"""

import asyncio
import errno
import hmac
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from k15.engines.service.messages import NO_SPACE, Empty, Failure, Health, HealthCall
from k15.engines.service.settings import TOKEN_VARIABLE
from k15.engines.service.streams import Stream

STATUS = {FloatingPointError: 409, ValueError: 422, ConnectionError: 502, TimeoutError: 504}
FLUSH_S = 2.0  # given to answers under way when the service ends

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One call: the type of its body and what runs on the engine's thread.

    One that `streams` returns a generator of its answer's parts, None where a step made none. One that is
    `direct` runs on the server's thread, whatever the engine does: it must be quick and raise nothing.
    """

    body: type
    run: Callable[[Any], Any]
    streams: bool = False
    direct: bool = False


@dataclass(frozen=True, slots=True)
class _Work:
    endpoint: Endpoint
    body: Any
    answer: Future[tuple[int, Any]]


class Server:
    """Serves endpoints under /<name> on `host`, to callers with the token, until stopped.

    Bad input is answered 422, a wrong token 401, a missed deadline 504, an unreachable peer 502.
    A fault is answered 500 with its message, and then ends the service: an engine is not trusted after one.
    A call that a signal breaks off is answered 503.
    """

    def __init__(
        self, endpoints: Mapping[str, Endpoint], *, token: str, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """`port` 0: one that is free. ValueError without a token, or where the address cannot be had."""
        if not token:
            raise ValueError(f"a service needs a token: set {TOKEN_VARIABLE}")
        self._token = token.encode()
        self._work: queue.SimpleQueue[_Work | Stream | None] = queue.SimpleQueue()
        own = {
            "health": Endpoint(HealthCall, lambda _: Health(), direct=True),
            "stop": Endpoint(Empty, self._stop, direct=True),
        }
        answers = {name: self._route(endpoint) for name, endpoint in {**own, **endpoints}.items()}
        routes = [Route(f"/{name}", answer, methods=["POST"]) for name, answer in answers.items()]
        self._socket = bound(host, port)
        self.port: int = self._socket.getsockname()[1]
        settings = uvicorn.Config(
            Starlette(routes=routes),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=int(FLUSH_S),
        )
        self._uvicorn = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._uvicorn.run, args=([self._socket],), daemon=True)

    def run(self, announce: Callable[[int], None]) -> None:
        """Call `announce(port)` once it answers; run calls until /stop. A fault in a call is raised here."""
        self._thread.start()
        while not self._uvicorn.started:
            if not self._thread.is_alive():
                raise RuntimeError("the HTTP server did not start")
            time.sleep(0.005)
        announce(self.port)
        streams: list[Stream] = []
        try:
            while (some := self._take(wait=not streams)) is not None:
                for work in some:
                    if isinstance(work, Stream):
                        streams.append(work)
                    else:
                        _perform(work)
                streams = [stream for stream in streams if _advance(stream)]
        finally:
            for stream in streams:
                stream.end(503, Failure("it was stopped in the middle of the call"))
            self._uvicorn.should_exit = True
            self._thread.join(FLUSH_S)

    def _take(self, *, wait: bool) -> list[_Work | Stream] | None:
        """The calls that came, at least one with `wait`; None after /stop."""
        some: list[_Work | Stream] = []
        try:
            while True:
                work = self._work.get(block=wait and not some)
                if work is None:
                    return None
                some.append(work)
        except queue.Empty:
            return some

    def _authorised(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").encode()
        return hmac.compare_digest(given, b"Bearer " + self._token)

    def _route(self, endpoint: Endpoint) -> Callable[[Request], Any]:
        decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(endpoint.body)

        async def answer(request: Request) -> Response:
            if not self._authorised(request):
                return _response(401, Failure("wrong or missing bearer token"))
            try:
                body = decoder.decode(await request.body())
            except msgspec.DecodeError as error:
                return _response(422, Failure(f"{request.url.path}: {error}"))
            if endpoint.direct:
                return _response(200, endpoint.run(body))
            if endpoint.streams:
                stream = Stream(endpoint.run, body)
                self._work.put(stream)
                return StreamingResponse(stream.frames(), media_type="application/octet-stream")
            work = _Work(endpoint, body, Future())
            self._work.put(work)
            return _response(*await asyncio.wrap_future(work.answer))

        return answer

    def _stop(self, _: Empty) -> Empty:
        self._work.put(None)
        return Empty()


def bound(host: str, port: int) -> socket.socket:
    """A socket at that address; ValueError where it is another host's, or taken."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port is free once its last owner is dead
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise ValueError(f"nothing can listen on {host}:{port} here: {error.strerror or error}") from error
    return made


def _response(status: int, body: Any) -> Response:
    return Response(msgspec.msgpack.encode(body), status_code=status, media_type="application/msgpack")


def _perform(work: _Work) -> None:
    """Run one call and answer it; a fault is answered and raised."""
    try:
        result = work.endpoint.run(work.body)
    except BaseException as error:
        status, failure = _failure(error)
        work.answer.set_result((status, failure))
        if status not in STATUS.values():
            raise
    else:
        work.answer.set_result((200, result))


def _advance(stream: Stream) -> bool:
    """Run a stream's next step; whether it goes on. A fault is answered and raised."""
    try:
        return stream.advance()
    except BaseException as error:
        status, failure = _failure(error)
        stream.end(status, failure)
        if status not in STATUS.values():
            raise
        return False


def _failure(error: BaseException) -> tuple[int, Failure]:
    """What the caller is told of an error."""
    for kind, status in STATUS.items():
        if isinstance(error, kind):
            log.warning("refused status=%d error=%s", status, error)
            return status, Failure(str(error))
    if not isinstance(error, Exception):
        return 503, Failure("it was stopped in the middle of the call")
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return NO_SPACE if full else 500, Failure(f"{type(error).__name__}: {error}")
