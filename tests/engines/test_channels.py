"""Weight channels between real processes: what arrives, what is refused, and what a death leaves behind."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from k15.engines.channels import open_receiver, open_sender
from k15.engines.shared_memory import SharedMemoryReceiver, SharedMemorySender, sweep
from k15.engines.weights import layout_bytes, views
from k15.ports import WeightReceiver, WeightSender
from k15.records import TensorSpec, WeightTicket

pytestmark = pytest.mark.engine

HOST, TIMEOUT_S = "127.0.0.1", 5
CHILD = Path(__file__).with_name("channel_child.py")
LAYOUT = [TensorSpec("a", "float32", (3, 5), 0), TensorSpec("b", "bfloat16", (7,), 60)]
Start = Callable[..., "subprocess.Popen[str]"]


def tensors(seed: int) -> list[tuple[str, torch.Tensor]]:
    torch.manual_seed(seed)
    return [("a", torch.randn(3, 5)), ("b", torch.randn(7).bfloat16())]


def ends(transport: str, layout: list[TensorSpec] = LAYOUT) -> tuple[WeightReceiver, WeightSender]:
    receiver = open_receiver(transport, layout_bytes(layout), host=HOST, timeout_s=TIMEOUT_S)
    return receiver, open_sender(transport, receiver.address(), layout, host=HOST, timeout_s=TIMEOUT_S)


@pytest.fixture
def child() -> Iterator[Start]:
    started = []

    def start(*arguments: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(CHILD), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "PATH": ""},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    sweep()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("transport", ["shared_memory", "tcp"])
def test_versions_arrive_bit_for_bit_in_alternating_slots(transport: str) -> None:
    receiver, sender = ends(transport)
    slots = []
    for version in (1, 2, 3):
        ticket = sender.send(tensors(version), version, deadline_s=10)
        slots.append(ticket.slot)
        for (name, got), (expected_name, expected) in zip(
            views(receiver.take(ticket), LAYOUT), tensors(version), strict=True
        ):
            assert name == expected_name
            assert torch.equal(got, expected)
    assert slots == [0, 1, 0]
    sender.close()
    receiver.close()


@pytest.mark.parametrize("transport", ["shared_memory", "tcp"])
def test_the_previous_version_stays_readable_while_the_next_one_fails(transport: str) -> None:
    receiver, sender = ends(transport)
    first = sender.send(tensors(1), 1, deadline_s=10)
    with pytest.raises(ValueError, match="gave no values for"):
        sender.send(tensors(2)[:1], 2, deadline_s=10)
    with pytest.raises(ValueError, match="not in the weight layout"):
        sender.send([("a", torch.zeros(5, 3))], 2, deadline_s=10)
    with pytest.raises(TimeoutError, match="passed its deadline"):
        sender.send(tensors(2), 2, deadline_s=0.0)
    assert dict(views(receiver.take(first), LAYOUT))["b"].equal(tensors(1)[1][1])
    with pytest.raises(ConnectionError, match="torn or never sent"):
        receiver.take(WeightTicket(2, 0, first.num_bytes, 1))
    sender.close()
    receiver.close()


def test_shared_memory_a_sender_killed_in_the_middle_leaves_the_old_version(child: Start) -> None:
    num_bytes = 1 << 20
    receiver = SharedMemoryReceiver(num_bytes)
    sender = child("send", "shared_memory", json.dumps(receiver.address()), num_bytes, "stall")
    first = WeightTicket(*json.loads(line(sender)))
    assert line(sender) == "midway"
    sender.send_signal(signal.SIGKILL)
    sender.wait()
    assert torch.frombuffer(receiver.take(first), dtype=torch.float32).eq(1.0).all()
    with pytest.raises(ConnectionError, match="torn or never sent"):
        receiver.take(WeightTicket(2, first.checksum, num_bytes, 1 - first.slot))
    layout = [TensorSpec("a", "float32", (num_bytes // 4,), 0)]
    successor = SharedMemorySender(receiver.address(), layout)
    ticket = successor.send([("a", torch.full((num_bytes // 4,), 3.0))], 2, deadline_s=10)
    assert ticket.slot != first.slot
    assert torch.frombuffer(receiver.take(ticket), dtype=torch.float32).eq(3.0).all()
    receiver.close()


def test_mooncake_a_sender_killed_on_the_wire_leaves_the_old_version(child: Start) -> None:
    num_bytes = 3 << 26  # three chunks
    receiver = open_receiver("tcp", num_bytes, host=HOST, timeout_s=TIMEOUT_S)
    sender = child("send", "tcp", json.dumps(receiver.address()), num_bytes, "once")
    first = WeightTicket(*json.loads(line(sender)))
    start_of_second = memoryview(receiver._slots.payload(1 - first.slot))[:4]  # type: ignore[attr-defined]
    while not any(start_of_second):
        assert sender.poll() is None
    sender.send_signal(signal.SIGKILL)
    sender.wait()
    second = line(sender)
    assert not second, "the transfer was over before the kill"
    assert torch.frombuffer(receiver.take(first), dtype=torch.float32).eq(1.0).all()
    with pytest.raises(ConnectionError, match="torn or never sent"):
        receiver.take(WeightTicket(2, first.checksum, num_bytes, 1 - first.slot))
    receiver.close()


def test_mooncake_a_dead_and_a_frozen_receiver_are_named_in_time(child: Start) -> None:
    receivers = [child("receive", "tcp", layout_bytes(LAYOUT)) for _ in range(2)]
    for receiver, end, error, limit_s in (
        (receivers[0], signal.SIGKILL, ConnectionError, 1.0),
        (receivers[1], signal.SIGSTOP, TimeoutError, TIMEOUT_S + 1.5),
    ):
        address = json.loads(line(receiver))
        sender = open_sender("tcp", address, LAYOUT, host=HOST, timeout_s=TIMEOUT_S)
        sender.send(tensors(1), 1, deadline_s=10)
        receiver.send_signal(end)
        time.sleep(0.1)
        started = time.monotonic()
        with pytest.raises(error, match=address["peer"]):
            sender.send(tensors(2), 2, deadline_s=30)
        assert time.monotonic() - started < limit_s
        sender.close()


def test_rdma_without_a_device_is_an_error_never_tcp() -> None:
    if any(Path("/sys/class/infiniband").glob("*")):
        pytest.skip("this machine has an RDMA device")
    with pytest.raises(ValueError, match="no RDMA device; use tcp"):
        open_receiver("rdma", 4096, host=HOST, timeout_s=TIMEOUT_S)


def test_ends_that_do_not_fit_are_refused() -> None:
    receiver = open_receiver("shared_memory", 4096, host=HOST, timeout_s=TIMEOUT_S)
    with pytest.raises(ValueError, match="the trainer has 'tcp', the sampler 'shared_memory'"):
        open_sender("tcp", receiver.address(), LAYOUT, host=HOST, timeout_s=TIMEOUT_S)
    with pytest.raises(ValueError, match="takes 4096 bytes, the layout has 74"):
        open_sender("shared_memory", receiver.address(), LAYOUT, host=HOST, timeout_s=TIMEOUT_S)
    receiver.close()
    with pytest.raises(ValueError, match="use shared_memory, tcp or rdma"):
        open_receiver("pigeon", 4096, host=HOST, timeout_s=TIMEOUT_S)
    overlapping = [TensorSpec("a", "float32", (4,), 0), TensorSpec("b", "float32", (4,), 8)]
    with pytest.raises(ValueError, match="overlaps"):
        layout_bytes(overlapping)


def test_files_of_dead_owners_are_swept_and_those_of_living_ones_kept(child: Start) -> None:
    dead, living = (child("receive", "shared_memory", 4096) for _ in range(2))
    dead_path, living_path = (Path(json.loads(line(process))["path"]) for process in (dead, living))
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    assert dead_path.exists()
    own = SharedMemoryReceiver(4096)  # a start sweeps
    assert not dead_path.exists()
    assert living_path.exists()
    own_path = Path(own.address()["path"])
    assert own_path.name not in sweep()
    sender = SharedMemorySender(own.address(), [TensorSpec("a", "float32", (1024,), 0)])
    own.close()
    assert not own_path.exists()
    with pytest.raises(ConnectionError, match="the sampler that made it has ended"):
        sender.send([("a", torch.zeros(1024))], 1, deadline_s=10)


def test_no_room_is_bad_input_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no room for"):
        SharedMemoryReceiver(1 << 50, folder=tmp_path)
    assert not list(tmp_path.iterdir())
