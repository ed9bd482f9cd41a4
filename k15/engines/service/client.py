"""RemoteSampler and RemoteTrainer: the ports of k15.ports, answered by a service."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from k15.engines.service.calls import Answered, call, stream
from k15.engines.service.messages import (
    ChannelCall,
    Empty,
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

    def __init__(self, service: Peer, *, deadline_s: float = 600.0) -> None:
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
