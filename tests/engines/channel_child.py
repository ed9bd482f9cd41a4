"""One end of a weight channel in a process of its own, for tests that kill, freeze or cut it off.

`trainer TRANSPORT HOST BYTES` answers each line {"version", "value", "stall"} with a ticket; with "stall" it
says "midway" after the first of two tensors and stays there.
`replica TRANSPORT HOST BYTES` says its source; it answers each line {"ticket", "deadline_s"} with what it
serves then and with the error, if there was one. It says "midway" once the first bytes of a version arrive.
A line {"still_s"} it answers with whether its buffer kept every byte for so long.
"""

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch

from k15.engines.channels import open_receiver, open_sender
from k15.engines.weights import refuse_older
from k15.records import TensorSpec, WeightSource, WeightTicket

TIMEOUT_S = 5


def halves(num_bytes: int) -> list[TensorSpec]:
    count = num_bytes // 8
    return [TensorSpec("a", "float32", (count,), 0), TensorSpec("b", "float32", (count,), 4 * count)]


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def ticket_of(fields: dict[str, Any]) -> WeightTicket:
    return WeightTicket(**{**fields, "source": WeightSource(**fields["source"])})


def values(
    layout: list[TensorSpec], value: float, *, stall: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    yield "a", torch.full(layout[0].shape, value)
    if stall:
        say("midway")
        time.sleep(600)
    yield "b", torch.full(layout[1].shape, value)


def trainer(transport: str, host: str, num_bytes: int) -> None:
    layout = halves(num_bytes)
    sender = open_sender(transport, layout, host=host, timeout_s=TIMEOUT_S)
    say("ready")
    for line in sys.stdin:
        call = json.loads(line)
        tensors = values(layout, call["value"], stall=call.get("stall", False))
        say(dataclasses.asdict(sender.send(tensors, call["version"], deadline_s=60)))


def replica(transport: str, host: str, num_bytes: int) -> None:
    receiver: Any = open_receiver(transport, num_bytes, host=host, timeout_s=TIMEOUT_S)
    source = receiver.source()
    say(source and dataclasses.asdict(source))
    served, weights = 0, torch.zeros(num_bytes // 4)
    for line in sys.stdin:
        call = json.loads(line)
        if "still_s" in call:
            before = bytes(receiver._slot.payload)
            time.sleep(call["still_s"])
            say(before == receiver._slot.payload)
            continue
        ticket = ticket_of(call["ticket"])
        if transport == "tcp":
            watch(receiver._slot.payload)
        error, started = "", time.monotonic()
        try:
            refuse_older(ticket, version=served, checksum=None)
            with receiver.take(ticket, deadline_s=call["deadline_s"]) as payload:
                weights.copy_(torch.frombuffer(payload, dtype=torch.float32))
            served = ticket.version
        except (ValueError, OSError) as refused:
            error = f"{type(refused).__name__}: {refused}"
        seconds = time.monotonic() - started
        whole = bool(weights.eq(weights[0]).all())
        say({"served": served, "value": float(weights[0]), "whole": whole, "error": error, "s": seconds})


def watch(payload: memoryview) -> None:
    """Say "midway" when the first bytes change; every version of a test differs in them."""
    before = bytes(payload[:4])

    def look() -> None:
        while bytes(payload[:4]) == before:
            time.sleep(0.001)
        say("midway")

    threading.Thread(target=look, daemon=True).start()


if __name__ == "__main__":
    mode, transport, host, num_bytes = sys.argv[1:]
    {"trainer": trainer, "replica": replica}[mode](transport, host, int(num_bytes))
