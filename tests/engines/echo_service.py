"""A service without an engine: `python -m tests.engines.echo_service --config FILE`."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from k15.config import Config
from k15.engines.service.main import run_service
from k15.engines.service.messages import Empty
from k15.engines.service.server import Endpoint


@dataclass(frozen=True)
class Talk:
    said: dict[str, Any]


class EchoSettings(Config):
    greeting: str
    holds_memory: bool = False


def refuse(_: Empty) -> Empty:
    raise ValueError("this input is refused")


def diverge(_: Empty) -> Empty:
    raise FloatingPointError("the loss is nan")


def fault(_: Empty) -> Empty:
    raise ZeroDivisionError("the engine broke")


def fill(_: Empty) -> Empty:
    with open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")
    return Empty()


def grind(_: Empty) -> Empty:
    hashlib.pbkdf2_hmac("sha256", b"", b"", (1 << 31) - 1)  # minutes in C, deaf to signals
    return Empty()


def rest(call: Talk) -> Empty:
    time.sleep(call.said["seconds"])
    return Empty()


@contextmanager
def build(settings: EchoSettings) -> Iterator[dict[str, Endpoint]]:
    print("this line is no announcement")
    facts = {"pid": os.getpid(), "greeting": settings.greeting}
    endpoints = {
        "echo": Endpoint(Talk, lambda call: call),
        "facts": Endpoint(Empty, lambda _: Talk(facts)),
        "refuse": Endpoint(Empty, refuse),
        "diverge": Endpoint(Empty, diverge),
        "fault": Endpoint(Empty, fault),
        "fill": Endpoint(Empty, fill),
        "grind": Endpoint(Empty, grind),
        "rest": Endpoint(Talk, rest),
    }
    if not settings.holds_memory:
        yield endpoints
        return
    import torch

    from k15.engines.shared_memory import FOLDER, SharedMemorySender
    from k15.records import TensorSpec

    with closing(SharedMemorySender([TensorSpec("a", "float32", (1024,), 0)])) as sender:
        ticket = sender.send([("a", torch.zeros(1024))], 1, deadline_s=10)
        facts["path"] = str(FOLDER / ticket.source.place)
        yield endpoints


if __name__ == "__main__":
    run_service(__doc__, EchoSettings, build)
