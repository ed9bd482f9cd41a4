"""A rank that follows: it makes the calls of rank 0's trainer, and ends with it.

python -m k15.engines.megatron.follower --rank R --world N --port P      (what rank 0 starts)
"""

import argparse
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from types import TracebackType

import torch.distributed as dist

from k15.engines.megatron import parallel
from k15.engines.megatron.calls import Calls, calls_of_process
from k15.engines.megatron.trainer import MegatronTrainer

log = logging.getLogger("k15.ranks")

GRACE_S = 5.0  # a rank that failed stays this long for its leader to fail by itself
FAULT, BAD_INPUT = 1, 2


def follow(calls: Calls) -> None:
    """Make the leader's calls until it says that there are no more; exit where one fails."""
    sys.excepthook = _fail
    trainer: MegatronTrainer | None = None
    while (call := calls.hear()) is not None:
        name, args, kwargs = call
        if name == "open":
            trainer = None
            gc.collect()
            trainer = MegatronTrainer(*args, **kwargs)
            continue
        result = getattr(trainer, name)(*args, **kwargs)
        if name == "tensors":
            deque(result, maxlen=0)


def _fail(kind_of: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What becomes of a follower's error: leave word for the leader, give it time to fail by itself, end."""
    rank = dist.get_rank()
    log.error("rank=%d failed", rank, exc_info=(kind_of, error, trace))
    kind = "ValueError" if isinstance(error, ValueError) else kind_of.__name__
    dist.distributed_c10d._get_default_store().set(f"failed/{rank}", f"{kind}: {error}")
    time.sleep(GRACE_S)
    os._exit(BAD_INPUT if kind == "ValueError" else FAULT)


def ignore_signals() -> None:
    """What asks the stage to end is meant for the leader, which still needs this rank."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _end_with_leader() -> None:
    """End this process when standard input, whose other end the leader holds, closes."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(FAULT)

    threading.Thread(target=watch, name="leader-watch", daemon=True).start()


def main() -> None:
    """Follow the leader that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("rank", "world", "port"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    ignore_signals()
    _end_with_leader()
    store = dist.TCPStore("127.0.0.1", arguments.port, arguments.world, is_master=False)
    parallel.join(store, rank=arguments.rank, world=arguments.world)
    follow(calls_of_process())


if __name__ == "__main__":
    main()
