"""An engine that hangs in a step while its process answers: its responses go to another sampler in time."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from k15.engines.service.client import RemoteSampler
from k15.engines.service.peer import Standing
from k15.engines.service.pool import SamplerPool
from k15.engines.service.server import Server
from k15.engines.service.settings import SamplerSettings
from k15.records import End, SamplePart, SampleRequest, SampleStats, Segment
from stages.sampler import SamplerService

pytestmark = pytest.mark.engine
TOKEN = "secret"


class Engine:
    """Samples a token a request; where `goes_on` is not set, its first step never ends."""

    copy = None

    def __init__(self, goes_on: threading.Event) -> None:
        self._goes_on = goes_on

    def stream(self, requests: Sequence[SampleRequest], *, deadline_s: float) -> Iterator[SamplePart]:
        for index, request in enumerate(requests):
            self._goes_on.wait()
            segment = Segment(0, request.prompt_token_ids, (-1.0,) * len(request.prompt_token_ids), End.STOP)
            yield SamplePart([(index, [segment])])
        yield SamplePart([], SampleStats(num_tokens=len(requests)))

    def attach(self, receiver: object, layout: object) -> None:
        """No weights are sent here."""


@contextmanager
def served(goes_on: threading.Event, stuck_s: float) -> Iterator[RemoteSampler]:
    """The engine as a sampler service of this process."""
    service = SamplerService(SamplerSettings(model_dir=os.devnull), lambda settings: Engine(goes_on))
    service.begin()
    endpoints = service.endpoints()
    del endpoints["channel"]
    server = Server(endpoints, token=TOKEN)
    serves = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda port: serves.set(),), daemon=True)
    thread.start()
    assert serves.wait(30)
    sampler = RemoteSampler(Standing(f"http://127.0.0.1:{server.port}", TOKEN, "run"), stuck_s=stuck_s)
    sampler.open_channel = lambda layout: None
    yield sampler
    goes_on.set()
    server._stop(None)
    thread.join(10)


def test_what_a_hung_engine_owes_is_sampled_by_another_before_the_deadline() -> None:
    going, hung = threading.Event(), threading.Event()
    going.set()
    requests = [SampleRequest((number,), 1) for number in range(1, 9)]
    with served(going, 2.0) as well, served(hung, 2.0) as stuck:
        pool = SamplerPool({"hung": stuck, "well": well}, [], version=0, capacity=4, hung_s=20.0)
        began = time.monotonic()
        answers = dict(pool.sample(requests, deadline_s=60))
        assert time.monotonic() - began < 30
        assert {n: s.token_ids for n, (s,) in answers.items()} == {n: (n + 1,) for n in range(8)}
        assert pool.stats.num_moved == 4 and pool.stats.num_left == 0
        assert list(pool.replicas) == ["well"]
        assert "its engine has hung in a step for" in pool.stats.lost[0]
        pool.close()


def test_what_nobody_had_time_for_is_not_called_sampled_again() -> None:
    hung, other = threading.Event(), threading.Event()
    with served(hung, 1.0) as stuck, served(other, 60.0) as busy:
        pool = SamplerPool({"hung": stuck, "busy": busy}, [], version=0, capacity=1, hung_s=20.0)
        answers = pool.sample([SampleRequest((1,), 1), SampleRequest((2,), 1)], deadline_s=6.0)
        threading.Timer(10.0, other.set).start()
        found = dict(answers)
        assert sorted(len(segment.token_ids) for (segment,) in found.values()) == [0, 1]
        assert (pool.stats.num_moved, pool.stats.num_left) == (0, 1)
        pool.close()
