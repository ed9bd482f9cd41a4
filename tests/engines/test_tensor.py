"""A sampler of two processes: its tokens are those of one, on weights a trainer sends; none outlives it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from k15.engines.channels import open_sender
from k15.engines.megatron.checkpoint import Checkpoint
from k15.engines.service.client import RemoteSampler
from k15.engines.service.process import Service, launch_sampler
from k15.engines.service.settings import NO_VERSION
from stages.services import checkpoint_layout, refuse_uncut
from tests.engines.conftest import sampler_settings
from tests.engines.responses import sampled, some_requests, tokens_of

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def workers_of(service: Service) -> list[psutil.Process]:
    """The engine's other processes."""
    return psutil.Process(service.process.pid).children(recursive=True)


@pytest.fixture(params=["shared_memory", "tcp"])
def pair(
    request: pytest.FixtureRequest, tied_model: Path, tmp_path: Path
) -> Iterator[tuple[Service, RemoteSampler]]:
    """A sampler over two processes that waits to begin, without weights."""
    settings = sampler_settings(tied_model).model_copy(
        update={"tensor": 2, "waits": True, "version": NO_VERSION, "transport": request.param}
    )
    with launch_sampler(settings, log_path=tmp_path / "pair.log") as service:
        service.wait_ready()
        yield service, RemoteSampler(service, version=NO_VERSION)


def test_two_processes_sample_as_one_and_end_with_the_sampler(
    pair: tuple[Service, RemoteSampler], tied_model: Path, tied_sampler: RemoteSampler, tmp_path: Path
) -> None:
    service, sampler = pair
    requests = some_requests(5, num=8, num_samples=2, max_tokens=24)
    with pytest.raises(ValueError, match="the engine has not been built: call begin"):
        sampled(sampler, requests)
    assert not workers_of(service)
    sampler.begin(deadline_s=240)
    assert len(workers_of(service)) >= 2
    with pytest.raises(ValueError, match="no weights yet"):
        sampled(sampler, requests)
    checkpoint = Checkpoint(tied_model)
    layout = checkpoint_layout(checkpoint)
    name = json.loads(service.log_path.with_suffix(".json").read_text())["transport"]
    sender = open_sender(name, layout, host="127.0.0.1", timeout_s=30)
    try:
        sampler.open_channel(layout)
        ticket = sender.send(((s.name, checkpoint.tensor(s.name)) for s in layout), 4, deadline_s=30)
        sampler.update(ticket, deadline_s=60)
    finally:
        sender.close()
    answers = sampled(sampler, requests)
    assert tokens_of(answers) == tokens_of(sampled(tied_sampler, requests))
    assert {segment.policy_version for segments in answers for segment in segments} == {4}
    workers = workers_of(service)
    if name == "tcp":
        os.kill(service.process.pid, 9)
    else:
        service.stop()
    assert not psutil.wait_procs(workers, timeout=30)[1]


def test_a_model_is_cut_by_its_heads_alone() -> None:
    config = {"num_attention_heads": 28, "num_key_value_heads": 4}
    refuse_uncut(config, 4)
    with pytest.raises(ValueError, match=r"sampler_tensor = 8 does not divide .* num_attention_heads = 28"):
        refuse_uncut(config, 8)
    with pytest.raises(ValueError, match="num_key_value_heads = 4"):
        refuse_uncut(config, 7)
