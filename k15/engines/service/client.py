"""RemoteSampler and RemoteTrainer: the ports of k15.ports, answered by a service."""

import errno
import http.client
import select
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from k15.engines.service.messages import (
    NO_SPACE,
    Address,
    ChannelCall,
    Empty,
    Failure,
    Layout,
    PolicyCall,
    PublishCall,
    SampleAnswer,
    SampleCall,
    SaveCall,
    SupervisedCall,
    UpdateCall,
)
from k15.engines.service.process import POLL_S, Service
from k15.recipes.rl import PolicyUpdate
from k15.records import Group, SampleRequest, Segment, TensorSpec, UpdateStats, WeightTicket
from k15.records import Sequence as Row

GRACE_S = 2.0  # over the deadline that the service itself keeps, so that its own message arrives
ERRORS: dict[int, type[Exception]] = {
    401: PermissionError,
    409: FloatingPointError,
    422: ValueError,
    500: RuntimeError,
    502: ConnectionError,
    503: ConnectionError,
    504: TimeoutError,
}

BROKEN = (http.client.HTTPException, ConnectionResetError, ConnectionRefusedError, BrokenPipeError)

Answer = TypeVar("Answer")


def call(service: Service, name: str, body: Any, answer: type[Answer], *, deadline_s: float) -> Answer:
    """One call of `service`, typed.

    ValueError: it refused the input. FloatingPointError: a loss was not finite. OSError ENOSPC: its disk is
    full. RuntimeError: it faulted. TimeoutError: no answer by the deadline.
    ConnectionError: it died (noticed at once, with its last log lines) or a peer of it did.
    """
    end_s = time.monotonic() + deadline_s
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=deadline_s)
    try:
        connection.request(
            "POST",
            f"/{name}",
            msgspec.msgpack.encode(body),
            {"Authorization": f"Bearer {service.token}", "Content-Type": "application/msgpack"},
        )
        while not select.select([connection.sock], [], [], POLL_S)[0]:
            if not service.alive:
                raise ConnectionError(service.explain_death())
            if time.monotonic() > end_s:
                raise TimeoutError(f"{service.module}: no answer to {name} within {deadline_s:.1f} s")
        response = connection.getresponse()
        status, payload = response.status, response.read()
    except BROKEN as error:
        raise ConnectionError(f"{name}: {service.explain_death()}") from error
    finally:
        connection.close()
    if status == 200:
        return msgspec.msgpack.decode(payload, type=answer)
    if status == NO_SPACE:
        raise OSError(errno.ENOSPC, msgspec.msgpack.decode(payload, type=Failure).message)
    if status not in ERRORS:
        raise RuntimeError(f"{service.module}: {name}: HTTP status {status}")
    raise ERRORS[status](f"{service.module}: {msgspec.msgpack.decode(payload, type=Failure).message}")


class RemoteSampler:
    """ports.Sampler over a sampler service."""

    def __init__(self, service: Service, *, version: int = 0, deadline_s: float = 60.0) -> None:
        """`deadline_s` holds for calls that name none."""
        self.version = version
        self._service = service
        self._deadline_s = deadline_s

    def sample(
        self, requests: Sequence[SampleRequest], *, deadline_s: float
    ) -> Iterator[tuple[int, list[Segment]]]:
        """The index of a request with its segments; at the deadline, with the tokens there are by then."""
        body = SampleCall(tuple(requests), deadline_s)
        answer = call(self._service, "sample", body, SampleAnswer, deadline_s=deadline_s + GRACE_S)
        return iter(answer.segments)

    def open_channel(self, layout: Sequence[TensorSpec]) -> dict[str, Any]:
        """A new weight channel for tensors in `layout`: the address for RemoteTrainer.connect."""
        body = ChannelCall(tuple(layout))
        return call(self._service, "channel", body, Address, deadline_s=self._deadline_s).address

    def update(self, ticket: WeightTicket, *, deadline_s: float) -> None:
        """Serve `ticket`'s weights from now on; ConnectionError on a wrong checksum (the old ones stay)."""
        call(self._service, "update", UpdateCall(ticket, deadline_s), Empty, deadline_s=deadline_s + GRACE_S)
        self.version = ticket.version


class RemoteTrainer:
    """ports.Trainer over a trainer service, and its end of the weight channel."""

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

    def layout(self) -> list[TensorSpec]:
        """The HF tensors in transfer order."""
        return list(self._call("layout", Empty(), Layout).tensors)

    def connect(self, address: dict[str, Any]) -> None:
        """Send weights to the receiver at `address` from now on."""
        self._call("connect", Address(address), Empty)

    def publish(self, version: int, *, deadline_s: float) -> WeightTicket:
        """Send the present weights as `version`; the ticket is for Sampler.update."""
        body = PublishCall(version, deadline_s)
        return call(self._service, "publish", body, WeightTicket, deadline_s=deadline_s + GRACE_S)

    def save(self, directory: Path) -> None:
        """Write the weights as sharded safetensors in HF layout, with config and tokenizer."""
        self._call("save", SaveCall(str(directory)), Empty)

    def _call(self, name: str, body: Any, answer: type[Answer]) -> Answer:
        return call(self._service, name, body, answer, deadline_s=self._deadline_s)
