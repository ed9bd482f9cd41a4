"""Weight channels between real processes of one host: what arrives, what is refused, what a death leaves."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from k15.engines.channels import open_receiver, open_sender
from k15.engines.fanout import deliver
from k15.engines.shared_memory import FOLDER, SharedMemoryReceiver, SharedMemorySender, sweep
from k15.engines.weights import BUCKET_BYTES, layout_bytes, refuse_older, views
from k15.ports import WeightReceiver, WeightSender
from k15.records import TensorSpec, WeightSource
from tests.engines.channel_ends import Replica, Trainer

pytestmark = pytest.mark.engine

HOST, TIMEOUT_S = "127.0.0.1", 5
LAYOUT = [TensorSpec("a", "float32", (3, 5), 0), TensorSpec("b", "bfloat16", (7,), 60)]
SMALL, LARGE = 1 << 20, 4 * BUCKET_BYTES
TRANSPORTS = pytest.mark.parametrize("transport", ["shared_memory", "tcp"])
Start = Callable[..., Any]


def tensors(seed: int) -> list[tuple[str, torch.Tensor]]:
    torch.manual_seed(seed)
    return [("a", torch.randn(3, 5)), ("b", torch.randn(7).bfloat16())]


def ends(transport: str) -> tuple[WeightReceiver, WeightSender]:
    receiver = open_receiver(transport, layout_bytes(LAYOUT), host=HOST, timeout_s=TIMEOUT_S)
    return receiver, open_sender(transport, LAYOUT, host=HOST, timeout_s=TIMEOUT_S)


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Any] = []

    def one(kind: type[Any], transport: str, num_bytes: int) -> Any:
        started.append(kind(kind.__name__.lower(), transport, num_bytes, host=HOST))
        return started[-1]

    yield one
    for process in started:
        process.end()
    sweep()


@TRANSPORTS
def test_versions_arrive_bit_for_bit(transport: str) -> None:
    receiver, sender = ends(transport)
    for version in (1, 2, 3):
        ticket = sender.send(tensors(version), version, deadline_s=10)
        for _ in range(2):  # taking it twice is no error
            with receiver.take(ticket, deadline_s=10) as payload:
                for (name, got), (expected_name, expected) in zip(
                    views(payload, LAYOUT), tensors(version), strict=True
                ):
                    assert name == expected_name
                    assert torch.equal(got, expected)
    sender.close()
    receiver.close()


@TRANSPORTS
def test_what_is_not_a_newer_whole_version_is_refused(transport: str) -> None:
    receiver, sender = ends(transport)
    first = sender.send(tensors(1), 1, deadline_s=10)
    for going_back in (0, 1):
        with pytest.raises(ValueError, match=f"version {going_back} of the weights goes back: 1 was sent"):
            sender.send(tensors(2), going_back, deadline_s=10)
    with receiver.take(first, deadline_s=10) as payload:  # a refused one touches nothing
        assert dict(views(payload, LAYOUT))["b"].equal(tensors(1)[1][1])
    with pytest.raises(ValueError, match="gave no values for"):
        sender.send(tensors(2)[:1], 2, deadline_s=10)
    with pytest.raises(ValueError, match="not in the weight layout"):
        sender.send([("a", torch.zeros(5, 3))], 2, deadline_s=10)
    with pytest.raises(TimeoutError, match="passed its deadline"):
        sender.send(tensors(2), 2, deadline_s=0.0)
    for ticket in (first, replace(first, version=2)):
        with (
            pytest.raises(ConnectionError, match="torn, replaced or never sent"),
            receiver.take(ticket, deadline_s=10),
        ):
            pass
    second = sender.send(tensors(2), 2, deadline_s=10)
    with (
        pytest.raises(ConnectionError, match="torn, replaced or never sent"),
        receiver.take(replace(second, checksum=second.checksum ^ 1), deadline_s=10),
    ):
        pass
    with pytest.raises(TimeoutError, match="deadline|more than"), receiver.take(second, deadline_s=0.0):
        pass
    sender.close()
    receiver.close()


def test_who_serves_a_version_takes_no_older_one_and_no_other_of_its_name() -> None:
    receiver, sender = ends("shared_memory")
    ticket = sender.send(tensors(1), 5, deadline_s=10)
    refuse_older(ticket, version=5, checksum=None)
    refuse_older(ticket, version=5, checksum=ticket.checksum)
    refuse_older(ticket, version=4, checksum=1)
    with pytest.raises(ValueError, match="version 5 of the weights goes back: 6 is served"):
        refuse_older(ticket, version=6, checksum=None)
    with pytest.raises(ValueError, match="these are others of that name"):
        refuse_older(ticket, version=5, checksum=ticket.checksum ^ 1)
    sender.close()
    receiver.close()


def test_weights_replaced_while_they_are_loaded_are_a_fault() -> None:
    receiver, sender = ends("shared_memory")
    ticket = sender.send(tensors(1), 1, deadline_s=10)
    with (
        pytest.raises(RuntimeError, match="version 1 was replaced while it was being loaded"),
        receiver.take(ticket, deadline_s=10),
    ):
        sender.send(tensors(2), 2, deadline_s=10)
    sender.close()
    receiver.close()


@TRANSPORTS
def test_a_trainer_killed_while_it_writes_leaves_the_old_version_and_the_next_one_works(
    transport: str, start: Start
) -> None:
    replica, trainer = start(Replica, transport, SMALL), start(Trainer, transport, SMALL)
    replica.ready().update(trainer.ready().send(1), deadline_s=10)
    torn = replace(trainer.send(2), version=3)
    trainer.tell(version=3, value=3.0, stall=True)
    assert trainer.line() == "midway"
    with pytest.raises(ConnectionError, match="torn, replaced or never sent"):
        replica.update(torn, deadline_s=10)
    trainer.process.send_signal(signal.SIGKILL)
    trainer.process.wait()
    with pytest.raises(ConnectionError, match="torn, replaced or never sent|is its process alive"):
        replica.update(torn, deadline_s=10)
    assert replica.serves(1)
    successor = start(Trainer, transport, SMALL).ready()
    replica.update(successor.send(3), deadline_s=10)
    assert replica.serves(3)


def test_mooncake_a_trainer_killed_on_the_wire_leaves_the_old_version(start: Start) -> None:
    replica, trainer = start(Replica, "tcp", LARGE), start(Trainer, "tcp", LARGE)
    replica.ready().update(trainer.ready().send(1), deadline_s=30)
    replica.ask(trainer.send(2), deadline_s=30)
    assert replica.line() == "midway"
    trainer.process.send_signal(signal.SIGKILL)
    with pytest.raises(ConnectionError, match=f"from {HOST}:.* failed .*is its process alive"):
        replica.settle()
    assert replica.state["s"] < 5.0
    assert replica.serves(1)


def test_mooncake_a_frozen_trainer_is_named_in_time(start: Start) -> None:
    replica, trainer = start(Replica, "tcp", SMALL), start(Trainer, "tcp", SMALL)
    replica.ready().update(trainer.ready().send(1), deadline_s=10)
    ticket = trainer.send(2)
    trainer.process.send_signal(signal.SIGSTOP)
    with pytest.raises(TimeoutError, match=f"{ticket.source.place} gave no weights for"):
        replica.update(ticket, deadline_s=10)
    assert replica.state["s"] < TIMEOUT_S + 1.5
    assert replica.serves(1)
    trainer.process.send_signal(signal.SIGCONT)
    replica.update(ticket, deadline_s=10)
    assert replica.serves(2)


@TRANSPORTS
def test_every_replica_gets_the_version_and_the_dead_one_is_named(transport: str, start: Start) -> None:
    replicas = {f"replica-{n}": start(Replica, transport, SMALL) for n in range(4)}
    trainer = start(Trainer, transport, SMALL).ready()
    for replica in replicas.values():
        replica.ready()
    assert deliver(trainer.send(1), replicas, deadline_s=30) == {}
    assert all(replica.serves(1) for replica in replicas.values())
    dead = replicas["replica-0"]
    dead.process.send_signal(signal.SIGKILL)
    dead.process.wait()
    failed = deliver(trainer.send(2), replicas, deadline_s=30)
    assert list(failed) == ["replica-0"]
    assert isinstance(failed["replica-0"], ConnectionError)
    living = {name: replica for name, replica in replicas.items() if name not in failed}
    assert all(replica.serves(2) for replica in living.values())
    joined = start(Replica, transport, SMALL).ready()
    assert deliver(trainer.send(3), living | {"joined": joined}, deadline_s=30) == {}
    assert joined.serves(3)


def test_rdma_without_a_device_is_an_error_never_tcp() -> None:
    if any(Path("/sys/class/infiniband").glob("*")):
        pytest.skip("this machine has an RDMA device")
    with pytest.raises(ValueError, match="no RDMA device; use tcp"):
        open_receiver("rdma", 4096, host=HOST, timeout_s=TIMEOUT_S)
    with pytest.raises(ValueError, match="no RDMA device; use tcp"):
        open_sender("rdma", LAYOUT, host=HOST, timeout_s=TIMEOUT_S)


def test_ends_that_do_not_fit_are_refused() -> None:
    receiver, sender = ends("shared_memory")
    ticket = sender.send(tensors(1), 1, deadline_s=10)
    for other, message in (
        (replace(ticket, source=WeightSource("tcp", "127.0.0.1:1", 0)), "the trainer has 'tcp', the sampler"),
        (replace(ticket, num_bytes=4096), "holds 4096 bytes, the layout has 74"),
        (replace(ticket, source=WeightSource("shared_memory", "../passwd")), "does not name a weight file"),
    ):
        with pytest.raises(ValueError, match=message), receiver.take(other, deadline_s=10):
            pass
    sender.close()
    with pytest.raises(ConnectionError, match="closed"):
        sender.send(tensors(2), 2, deadline_s=10)
    with pytest.raises(ValueError, match="use shared_memory, tcp or rdma"):
        open_receiver("pigeon", 4096, host=HOST, timeout_s=TIMEOUT_S)
    overlapping = [TensorSpec("a", "float32", (4,), 0), TensorSpec("b", "float32", (4,), 8)]
    with pytest.raises(ValueError, match="overlaps"):
        layout_bytes(overlapping)


def test_files_of_dead_owners_are_swept_and_those_of_living_ones_kept(start: Start) -> None:
    dead, living = (start(Trainer, "shared_memory", SMALL).ready() for _ in range(2))
    dead_file, living_file = (FOLDER / trainer.send(1).source.place for trainer in (dead, living))
    dead.process.send_signal(signal.SIGKILL)
    dead.process.wait()
    assert dead_file.exists()
    own = SharedMemorySender(LAYOUT)  # a start sweeps
    assert not dead_file.exists()
    assert living_file.exists()
    ticket = own.send(tensors(1), 1, deadline_s=10)
    own_file = FOLDER / ticket.source.place
    assert own_file.name not in sweep()
    own.close()
    assert not own_file.exists()
    receiver = SharedMemoryReceiver(layout_bytes(LAYOUT))
    with (
        pytest.raises(ConnectionError, match="gone; its trainer has ended"),
        receiver.take(ticket, deadline_s=10),
    ):
        pass


def test_no_room_is_bad_input_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no room for"):
        SharedMemorySender([TensorSpec("a", "float32", (1 << 48,), 0)], folder=tmp_path)
    assert not list(tmp_path.iterdir())


class Scripted:
    """A replica over a network that takes weights for a while, or fails, and records from whom."""

    def __init__(self, name: str, asked: list[tuple[str, str]], fails: int = 0) -> None:
        self.copy: WeightSource | None = WeightSource("tcp", name)
        self._name, self._asked, self._fails = name, asked, fails

    def update(self, ticket: Any, *, deadline_s: float) -> None:
        self._asked.append((ticket.source.place, self._name))
        time.sleep(0.05)
        if self._fails:
            self._fails -= 1
            raise ConnectionError(f"{self._name} fails")


def test_the_trainer_serves_one_and_holders_double() -> None:
    _, sender = ends("shared_memory")
    ticket = replace(sender.send(tensors(1), 1, deadline_s=10), source=WeightSource("tcp", "trainer"))
    sender.close()
    asked: list[tuple[str, str]] = []
    started = time.monotonic()
    replicas = {f"r{n}": Scripted(f"r{n}", asked) for n in range(8)}
    assert deliver(ticket, replicas, deadline_s=30) == {}
    assert time.monotonic() - started < 8 * 0.05  # 4 waves
    assert [source for source, _ in asked].count("trainer") == 1
    assert sorted(name for _, name in asked) == sorted(replicas)

    asked.clear()  # one fails once with a replica, and is asked again with the trainer; one fails always
    replicas = {f"r{n}": Scripted(f"r{n}", asked, fails={2: 1, 4: 9}.get(n, 0)) for n in range(6)}
    failed = deliver(ticket, replicas, deadline_s=30)
    assert list(failed) == ["r4"]
    assert ("trainer", "r2") in asked
    assert ("trainer", "r4") in asked
    late = deliver(ticket, {"r0": Scripted("r0", asked)}, deadline_s=0.0)
    assert isinstance(late["r0"], TimeoutError)
