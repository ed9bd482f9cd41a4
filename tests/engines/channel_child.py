"""The other end of a weight channel in a process of its own, for tests that kill or freeze it.

`receive TRANSPORT BYTES` prints its address and waits; `send TRANSPORT ADDRESS BYTES stall|once` sends
version 1, then version 2, which with `stall` stops after the first of its two tensors.
"""

import json
import sys
import time
from collections.abc import Iterator

import torch

from k15.engines.channels import open_receiver, open_sender
from k15.records import TensorSpec

HOST, TIMEOUT_S = "127.0.0.1", 5


def halves(num_bytes: int) -> list[TensorSpec]:
    count = num_bytes // 8
    return [TensorSpec("a", "float32", (count,), 0), TensorSpec("b", "float32", (count,), 4 * count)]


def values(
    layout: list[TensorSpec], value: float, *, stall: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    yield "a", torch.full(layout[0].shape, value)
    if stall:
        print("midway", flush=True)
        time.sleep(600)
    yield "b", torch.full(layout[1].shape, value)


def main() -> None:
    mode, transport, *rest = sys.argv[1:]
    if mode == "receive":
        receiver = open_receiver(transport, int(rest[0]), host=HOST, timeout_s=TIMEOUT_S)
        print(json.dumps(receiver.address()), flush=True)
        time.sleep(600)
    layout = halves(int(rest[1]))
    sender = open_sender(transport, json.loads(rest[0]), layout, host=HOST, timeout_s=TIMEOUT_S)
    for version in (1, 2):
        stall = version == 2 and rest[2] == "stall"
        ticket = sender.send(values(layout, float(version), stall=stall), version, deadline_s=60)
        print(json.dumps([ticket.version, ticket.checksum, ticket.num_bytes, ticket.slot]), flush=True)


if __name__ == "__main__":
    main()
