"""Several real samplers behind one port: one dies, one hangs, one joins, and the tokens are the same."""

import itertools
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from k15.engines.channels import open_sender
from k15.engines.megatron.checkpoint import Checkpoint
from k15.engines.service.client import RemoteSampler
from k15.engines.service.pool import SamplerPool
from k15.engines.service.process import launch_sampler
from k15.records import SampleRequest, Segment, WeightTicket
from stages.services import checkpoint_layout
from tests.e2e.driver import wait_for
from tests.engines.conftest import sampler_settings
from tests.engines.responses import sampled, some_requests, tokens_of

pytestmark = [pytest.mark.engine, pytest.mark.slow]
CAPACITY = 64
HUNG_S = 15.0


class Replicas:
    """Samplers of one model, and the trainer's end of their channel."""

    def __init__(
        self, model: Path, logs: Path, stack: ExitStack, *, transport: str = "shared_memory"
    ) -> None:
        self.model, self._logs, self._stack = model, logs, stack
        self._numbers = itertools.count()
        checkpoint = Checkpoint(model)
        self.layout = checkpoint_layout(checkpoint)
        self.tensors = {spec.name: checkpoint.tensor(spec.name) for spec in self.layout}
        self._sender = open_sender(transport, self.layout, host="127.0.0.1", timeout_s=30)
        stack.callback(self._sender.close)
        self._transport = transport

    def launch(self, model: Path | None = None) -> tuple[str, RemoteSampler]:
        """One more, not waited for."""
        name = f"sampler-{next(self._numbers)}"
        settings = sampler_settings(model or self.model).model_copy(update={"transport": self._transport})
        service = launch_sampler(settings, log_path=self._logs / f"{name}.log")
        self._stack.enter_context(service)
        return name, RemoteSampler(service)

    def ready(self, count: int) -> dict[str, RemoteSampler]:
        """As many, all up."""
        replicas = dict(self.launch() for _ in range(count))
        for replica in replicas.values():
            replica.wait()
        return replicas

    def send(self, version: int, scale: float = 1.0) -> WeightTicket:
        """The model's weights, scaled, as a version."""
        tensors = ((name, tensor * torch.tensor(scale)) for name, tensor in self.tensors.items())
        return self._sender.send(tensors, version, deadline_s=30)


@pytest.fixture
def replicas(tied_model: Path, tmp_path: Path) -> Iterator[Replicas]:
    with ExitStack() as stack:
        yield Replicas(tied_model, tmp_path, stack)


def asked() -> list[SampleRequest]:
    """Two that end at once, one for each of two replicas, and many that go on."""
    requests = some_requests(7, num=24, num_samples=4, max_tokens=80)
    return [*(replace(request, max_tokens=2) for request in requests[:2]), *requests[2:]]


def broken_off(pool: SamplerPool, act: Callable[[], None]) -> list[list[Segment]]:
    """Every answer of a phase in which `act` comes right after the first one."""
    requests = asked()
    answers = pool.sample(requests, deadline_s=120)
    found = [next(answers)]
    act()
    found += answers
    assert sorted(index for index, _ in found) == list(range(len(requests)))
    return [segments for _, segments in sorted(found)]


def test_a_killed_replica_and_a_hung_one_cost_no_token_and_others_join(
    replicas: Replicas, untied_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    living = replicas.ready(2)
    pool = SamplerPool(
        living,
        replicas.layout,
        version=0,
        capacity=CAPACITY,
        replacement=replicas.launch,
        hung_s=HUNG_S,
    )
    expected = sampled(pool, asked(), deadline_s=120)
    assert [share for _, share in pool.stats.shares] == [pytest.approx(0.5, abs=0.2)] * 2
    (alone,) = list(living.values())[:1]
    assert tokens_of(sampled(alone, asked(), deadline_s=120)) == tokens_of(expected)

    process = living["sampler-0"]._service.process
    found = broken_off(pool, lambda: process.send_signal(signal.SIGKILL))
    assert tokens_of(found) == tokens_of(expected)
    assert pool.stats.num_moved > 0
    assert len(pool.stats.lost) == 1
    assert pool.stats.lost[0].startswith("sampler-0: ") and "killed by signal 9" in pool.stats.lost[0]
    assert list(pool.replicas) == ["sampler-1"]

    wait_for(lambda: pool._joining["sampler-2"][1].done(), "a replacement", timeout_s=240)
    old = replicas.send(1)
    pool.update(replicas.send(2), deadline_s=30)
    with pytest.raises(ValueError, match="no replica took version 1: .*version 1"):
        pool.update(old, deadline_s=30)
    assert list(pool.replicas) == ["sampler-1", "sampler-2"]
    again = sampled(pool, asked(), deadline_s=120)
    assert tokens_of(again) == tokens_of(expected)
    assert {segment.policy_version for segments in again for segment in segments} == {2}
    assert pool.stats.lost == ()

    pool._replacement = lambda: replicas.launch(untied_model)  # of another model
    process = pool.replicas["sampler-2"]._service.process
    found = broken_off(pool, lambda: process.send_signal(signal.SIGSTOP))
    assert tokens_of(found) == tokens_of(expected)
    assert "no answer to health within 15.0 s" in pool.stats.lost[0]
    wait_for(lambda: process.poll() is not None, "the end of the hung replica", timeout_s=30)
    wait_for(lambda: pool._joining["sampler-3"][1].done(), "the other model's", timeout_s=240)
    pool.update(replicas.send(3), deadline_s=30)
    assert list(pool.replicas) == ["sampler-1"]
    assert "replica=sampler-3 did not join" in caplog.text

    process = pool.replicas["sampler-1"]._service.process
    with pytest.raises(ConnectionError, match="killed by signal 9"):
        broken_off(pool, lambda: process.send_signal(signal.SIGKILL))


def test_what_finds_no_room_before_the_deadline_is_left_empty(replicas: Replicas) -> None:
    (name,) = living = replicas.ready(1)
    pool = SamplerPool(living, replicas.layout, version=0, capacity=4)
    requests = some_requests(3, num=8, num_samples=4, max_tokens=80)
    answers = sampled(pool, requests, deadline_s=0.02)
    assert [len(segments) for segments in answers] == [4] * 8
    assert sum(not segment.token_ids for segments in answers for segment in segments) >= 4
    assert tokens_of(sampled(pool, requests, deadline_s=120)) == tokens_of(
        sampled(living[name], requests, deadline_s=120)
    )


def test_a_replica_that_hangs_while_weights_are_on_their_way_does_not_hold_up_the_others(
    tied_model: Path, tmp_path: Path
) -> None:
    """Over TCP all but the first take them from one another: they waited for it to the deadline."""
    with ExitStack() as stack:
        replicas = Replicas(tied_model, tmp_path, stack, transport="tcp")
        living = replicas.ready(2)
        pool = SamplerPool(living, replicas.layout, version=0, capacity=CAPACITY, hung_s=8.0)
        stack.callback(pool.close)
        pool.update(replicas.send(1), deadline_s=60)
        living["sampler-0"]._service.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        pool.update(replicas.send(2), deadline_s=600)
        assert time.monotonic() - began < 60
        assert list(pool.replicas) == ["sampler-1"]
        requests = some_requests(3, num=4)
        found = sampled(pool, requests, deadline_s=60)
        assert {segment.policy_version for segments in found for segment in segments} == {2}
        assert "sampler-0: " in pool.stats.lost[0] and "no answer to health" in pool.stats.lost[0]
