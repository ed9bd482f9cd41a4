"""RemoteSampler and RemoteTrainer: the ports of k15.ports, answered by a service."""

import errno
import http.client
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from k15.engines.service.messages import (
    NO_SPACE,
    ChannelCall,
    Empty,
    Failure,
    Health,
    HealthCall,
    Layout,
    Needs,
    Opened,
    PolicyCall,
    PublishCall,
    RowsCall,
    SampleCall,
    SaveCall,
    SupervisedCall,
    UpdateCall,
)
from k15.engines.service.peer import Peer
from k15.engines.service.process import POLL_S, Service
from k15.engines.service.streams import END, LENGTH, PART
from k15.recipes.rl import PolicyUpdate
from k15.records import (
    Answer,
    Group,
    SamplePart,
    SampleRequest,
    SampleStats,
    TensorSpec,
    UpdateStats,
    WeightSource,
    WeightTicket,
)
from k15.records import Sequence as Row

GRACE_S = 2.0  # over the deadline that the service itself keeps, so that its own message arrives
STUCK_S = 300.0  # no step of a sampling engine takes so long: it holds a long prompt's prefill at most
LAST_STEP_S = 60.0  # over a sampling deadline: the engine's step under way is not broken off
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


class RemoteSampler:
    """ports.Sampler over a sampler service."""

    def __init__(
        self,
        service: Peer,
        *,
        version: int = 0,
        needs: Needs | None = None,
        deadline_s: float = 60.0,
        stuck_s: float = STUCK_S,
    ) -> None:
        """`deadline_s` holds for calls that name none; `needs` are the trainer's, where there is one."""
        self.version = version
        self.stats = SampleStats()
        self.copy: WeightSource | None = None  # where other samplers may take what this one has taken
        self._service, self._needs, self._stuck_s = service, needs, stuck_s
        self._deadline_s = deadline_s

    def sample(self, requests: Sequence[SampleRequest], *, deadline_s: float) -> Iterator[Answer]:
        """The index of a request with its segments, as each ends; at the deadline with the tokens it has."""
        for part in self.parts(requests, deadline_s=deadline_s):
            self.stats = part.stats or self.stats
            yield from part.answers

    def parts(self, requests: Sequence[SampleRequest], *, deadline_s: float) -> Iterator[SamplePart]:
        """`sample` by parts, the last one with what the call did; calls may run side by side."""
        body = SampleCall(tuple(requests), deadline_s, self._service.session)
        yield from stream(self._service, "sample", body, SamplePart, deadline_s=deadline_s + LAST_STEP_S)

    def wait(self) -> None:
        """Return once the service has started and answers; errors as Service.wait_ready's and `ping`'s."""
        self._service.wait_ready()
        self.ping(deadline_s=self._deadline_s)

    def begin(self, *, deadline_s: float) -> None:
        """Build the engine of a service that waits for it; ConnectionError where it dies over that."""
        call(self._service, "begin", Empty(), Empty, deadline_s=deadline_s)

    def ping(self, *, deadline_s: float) -> None:
        """Return once the service answers; ConnectionError or TimeoutError.

        TimeoutError too where its engine has been at one step of a sampling call for STUCK_S.
        """
        body = HealthCall(self._service.session)
        step_s = call(self._service, "health", body, Health, deadline_s=deadline_s).step_s
        if step_s > self._stuck_s:
            raise TimeoutError(f"{self._service.module}: its engine has hung in a step for {step_s:.0f} s")

    def end(self, why: str = "") -> None:
        """End the service, however it stands; calls under way break off, and say `why`.

        One that others started is free for the next run.
        """
        if not self._service.ours and self._service.alive:
            with suppress(ConnectionError, TimeoutError, PermissionError):
                body = HealthCall(self._service.session)
                call(self._service, "release", body, Empty, deadline_s=GRACE_S)
        self._service.stop(why)

    def open_channel(self, layout: Sequence[TensorSpec]) -> None:
        """Make ready for weights in `layout`; ValueError where that is not this sampler's model."""
        body = ChannelCall(tuple(layout), self._service.session, self._needs)
        self.copy = call(self._service, "channel", body, Opened, deadline_s=self._deadline_s).copy

    def update(self, ticket: WeightTicket, *, deadline_s: float) -> None:
        """Serve `ticket`'s weights from now on, as ports.Sampler.update."""
        body = UpdateCall(ticket, deadline_s, self._service.session)
        self.copy = call(self._service, "update", body, Opened, deadline_s=deadline_s + GRACE_S).copy
        self.version = ticket.version


class RemoteTrainer:
    """ports.Trainer over a trainer service."""

    def __init__(self, service: Service, *, deadline_s: float = 600.0) -> None:
        """`deadline_s` holds for every call that names none."""
        self._service = service
        self._deadline_s = deadline_s

    def supervised_step(self, batch: Sequence[Row], *, lr: float) -> dict[str, float]:
        """One optimizer step of token cross-entropy."""
        return self._call("supervised_step", SupervisedCall(tuple(batch), lr), dict[str, float])

    def policy_update(self, groups: Sequence[Group], *, settings: PolicyUpdate, lr: float) -> UpdateStats:
        """One iteration of eq. 3 on `groups` at rate `lr`."""
        return self._call("policy_update", PolicyCall(tuple(groups), settings.resolved(), lr), UpdateStats)

    def logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """For each row the log-probs of its loss tokens."""
        return self._call("logprobs", RowsCall(tuple(rows)), list[list[float]])

    def layout(self) -> list[TensorSpec]:
        """The HF tensors in transfer order."""
        return list(self._call("layout", Empty(), Layout).tensors)

    def publish(self, version: int, *, deadline_s: float) -> WeightTicket:
        """Lay the present weights out as `version`; the ticket is for Sampler.update."""
        body = PublishCall(version, deadline_s)
        return call(self._service, "publish", body, WeightTicket, deadline_s=deadline_s + GRACE_S)

    def save(self, directory: Path) -> None:
        """Write the weights as sharded safetensors in HF layout, with config and tokenizer."""
        self._call("save", SaveCall(str(directory)), Empty)

    def ping(self, *, deadline_s: float) -> None:
        """Return once the service answers, whatever its engine does; ConnectionError or TimeoutError."""
        call(self._service, "health", HealthCall(), Health, deadline_s=deadline_s)

    def end(self, why: str = "") -> None:
        """End the service, however it stands; a call under way breaks off, and says `why`."""
        self._service.stop(why)

    def offload(self) -> None:
        """Leave the devices to others; ValueError for any call but `layout` and `onload` that follows."""
        self._call("offload", Empty(), Empty)

    def onload(self) -> None:
        """Come back to them."""
        self._call("onload", Empty(), Empty)

    def _call(self, name: str, body: Any, answer: type[Answered]) -> Answered:
        return call(self._service, name, body, answer, deadline_s=self._deadline_s)
