"""Mooncake over TCP between two hosts (network namespaces): versions arrive, and a cut cable is survived."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from k15.engines.fanout import deliver
from k15.engines.weights import BUCKET_BYTES
from tests.engines.channel_ends import Replica, Trainer
from tests.engines.two_hosts import SAMPLER_HOST, TRAINER_HOST, TwoHosts, two_hosts

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NUM_BYTES = 4 * BUCKET_BYTES
DEADLINE_S = 60.0


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    try:
        made = two_hosts()
        hosts = made.__enter__()
    except PermissionError as refused:
        pytest.skip(str(refused))
    yield hosts
    made.__exit__(None, None, None)


@pytest.fixture
def trainer(hosts: TwoHosts) -> Iterator[Trainer]:
    end = Trainer("trainer", "tcp", NUM_BYTES, host=TRAINER_HOST, inside=hosts.trainer)
    yield end.ready()
    end.end()


@pytest.fixture
def replicas(hosts: TwoHosts) -> Iterator[dict[str, Replica]]:
    ends = {
        name: Replica("replica", "tcp", NUM_BYTES, host=SAMPLER_HOST, inside=hosts.sampler)
        for name in ("first", "second")
    }
    yield {name: end.ready() for name, end in ends.items()}
    for end in ends.values():
        end.end()


def test_a_trainer_on_one_host_gives_its_versions_to_two_samplers_on_another(
    trainer: Trainer, replicas: dict[str, Replica]
) -> None:
    for version in (1, 2):
        ticket = trainer.send(version)
        assert ticket.source.place.startswith(TRAINER_HOST)
        assert deliver(ticket, replicas, deadline_s=DEADLINE_S) == {}
        assert all(replica.serves(version) for replica in replicas.values())
    for wrong in (replace(ticket, version=3), replace(ticket, checksum=ticket.checksum ^ 1, version=3)):
        failed = deliver(wrong, replicas, deadline_s=DEADLINE_S)
        assert sorted(failed) == ["first", "second"]
        assert all("does not hold version 3" in str(error) for error in failed.values())
    assert all(replica.serves(2) for replica in replicas.values())


def test_a_cable_cut_in_a_transfer_leaves_the_old_version_and_the_next_one_works_once_it_is_back(
    hosts: TwoHosts, trainer: Trainer, replicas: dict[str, Replica]
) -> None:
    assert deliver(trainer.send(1), replicas, deadline_s=DEADLINE_S) == {}
    replica = replicas["first"]
    replica.ask(trainer.send(2), deadline_s=DEADLINE_S)
    assert replica.line() == "midway"
    hosts.link("down")
    cut = time.monotonic()
    with pytest.raises(TimeoutError, match=f"{TRAINER_HOST}:.* gave no weights for"):
        replica.settle()
    assert time.monotonic() - cut < DEADLINE_S
    assert replica.serves(1)
    with pytest.raises((TimeoutError, ConnectionError), match=TRAINER_HOST):  # the cable is out still
        replica.update(trainer.send(3), deadline_s=DEADLINE_S)
    hosts.link("up")
    # What was under way for version 2 would arrive now; the buffer is that of whatever comes next.
    assert replica.still(seconds=8.0)
    for version in (4, 5):
        assert deliver(trainer.send(version), replicas, deadline_s=DEADLINE_S) == {}
        assert all(other.serves(version) for other in replicas.values())
