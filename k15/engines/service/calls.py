"""Calls of a service over HTTP: one answer, or one that comes in parts; what went wrong as what it is."""

import errno
import http.client
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from k15.engines.service.messages import NO_SPACE, Failure
from k15.engines.service.peer import Peer
from k15.engines.service.process import POLL_S
from k15.engines.service.streams import END, LENGTH, PART

ERRORS: dict[int, type[Exception]] = {
    401: PermissionError,
    409: FloatingPointError,
    422: ValueError,
    500: RuntimeError,
    502: ConnectionError,
    503: ConnectionError,
    504: TimeoutError,
}

BROKEN = (http.client.HTTPException, OSError)

Answered = TypeVar("Answered")


def call(service: Peer, name: str, body: Any, answer: type[Answered], *, deadline_s: float) -> Answered:
    """One call of `service`, typed.

    ValueError: it refused the input. FloatingPointError: a loss was not finite. OSError ENOSPC: its disk is
    full. RuntimeError: it faulted. TimeoutError: no answer by the deadline.
    ConnectionError: it died (noticed at once, with its last log lines) or a peer of it did.
    """
    with _answering(service, name, body, deadline_s=deadline_s) as (_, response):
        status, payload = response.status, response.read()
    if status == 200:
        return msgspec.msgpack.decode(payload, type=answer)
    raise _error(service, name, status, payload)


def stream(
    service: Peer, name: str, body: Any, part: type[Answered], *, deadline_s: float
) -> Iterator[Answered]:
    """The parts of a call's answer as they come; raises what `call` does. Closing it ends the call."""
    end_s = time.monotonic() + deadline_s
    decoder = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
    with _answering(service, name, body, deadline_s=deadline_s) as (connection, response):
        status = response.status
        payload: bytes | msgspec.Raw = response.read() if status != PART else b""
        while status == PART:
            connection.settimeout(max(POLL_S, end_s - time.monotonic()))
            (size,) = LENGTH.unpack(_exactly(response, LENGTH.size))
            status, payload = decoder.decode(_exactly(response, size))
            if status == PART:
                yield msgspec.msgpack.decode(payload, type=part)
    if status != END:
        raise _error(service, name, status, payload)


@contextmanager
def _answering(
    service: Peer, name: str, body: Any, *, deadline_s: float
) -> Iterator[tuple[socket.socket, http.client.HTTPResponse]]:
    """A call whose answer has begun; ConnectionError and TimeoutError as `call` raises them."""
    end_s = time.monotonic() + deadline_s
    connection = http.client.HTTPConnection(service.host, service.port, timeout=deadline_s)
    try:
        connection.request(
            "POST",
            f"/{name}",
            msgspec.msgpack.encode(body),
            {"Authorization": f"Bearer {service.token}", "Content-Type": "application/msgpack"},
        )
        channel: socket.socket = connection.sock
        while not select.select([channel], [], [], POLL_S)[0]:
            if not service.alive:
                raise ConnectionError(service.explain_death())
            if time.monotonic() > end_s:
                raise TimeoutError
        yield channel, connection.getresponse()
    except TimeoutError as error:
        raise TimeoutError(f"{service.module}: no answer to {name} within {deadline_s:.1f} s") from error
    except BROKEN as error:
        raise ConnectionError(f"{name}: {service.explain_death()}") from error
    finally:
        connection.close()


def _exactly(response: http.client.HTTPResponse, num_bytes: int) -> bytes:
    data = response.read(num_bytes)
    if len(data) < num_bytes:
        raise http.client.IncompleteRead(data, num_bytes - len(data))
    return data


def _error(service: Peer, name: str, status: int, payload: bytes | msgspec.Raw) -> Exception:
    """What a status and its body say."""
    if status == NO_SPACE:
        return OSError(errno.ENOSPC, msgspec.msgpack.decode(payload, type=Failure).message)
    if status not in ERRORS:
        return RuntimeError(f"{service.module}: {name}: HTTP status {status}")
    return ERRORS[status](f"{service.module}: {msgspec.msgpack.decode(payload, type=Failure).message}")
