"""Many processes behind one trainer: the stage's process is rank 0, the others follow its calls.

Rank 0 starts the others on its own machine, unless RANK is set: then torchrun or Kubernetes has started
every rank, with a scratch directory (TMPDIR) that all of them see. Each call of the trainer is sent to all
ranks, and made by all. Where one fails, all end: rank 0 raises what the other said, and a rank without leader
ends.
"""

import atexit
import contextlib
import functools
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch.distributed as dist

from k15.engines.megatron import architecture, parallel
from k15.engines.megatron.calls import IDLE, Calls, calls_of_process
from k15.engines.megatron.follower import FAULT, GRACE_S, follow, ignore_signals
from k15.engines.megatron.trainer import MegatronTrainer
from k15.recipes.pipeline import Layout

log = logging.getLogger("k15.ranks")

P = ParamSpec("P")
R = TypeVar("R")
POLL_S = 0.5
NOTICE_S = 20.0  # after a follower's death the leader is to notice within this, or is ended


def lead(
    model_dir: Path,
    *,
    layout: Layout,
    env: Mapping[str, str],
    last: MegatronTrainer | None = None,
    **options: Any,
) -> MegatronTrainer:
    """A trainer laid out over `layout.world` processes, of which this is the first.

    `options` are MegatronTrainer's. The others end with this process, or with `close` of the trainer; those
    of `last`, a trainer of this function with the same layout, go on with the new model in place of its own.
    ValueError before any of them starts where the layout does not divide the model.
    """
    if layout.world == 1:
        return MegatronTrainer(model_dir, layout=layout, **options)
    architecture.refuse_undivided(architecture.read(model_dir), layout)
    if isinstance(last, LeadingTrainer):
        last.open(model_dir, layout=layout, **options)
        return last
    followers = []
    if "RANK" in env:
        meet(env)
    else:
        store = dist.TCPStore("127.0.0.1", 0, layout.world, is_master=True, wait_for_workers=False)
        followers = [_launch(rank, layout.world, store.port) for rank in range(1, layout.world)]
        Watch(followers).start()
        parallel.join(store, rank=0, world=layout.world)
    return LeadingTrainer(followers, calls_of_process(), model_dir, layout=layout, **options)


def meet(env: Mapping[str, str]) -> bool:
    """Be the rank that the environment says: True at once on the leader, where all ranks have come.

    False on another, when the leader has ended: it has made the leader's calls. Safe to call again on the
    leader. However late a rank comes, and however long the leader takes to its first call, the others wait.
    """
    if dist.is_initialized():
        return True
    leads = env["RANK"] == "0"
    if not leads:
        ignore_signals()
    parallel.meet(late=IDLE)
    calls = calls_of_process()
    if leads:
        atexit.register(calls.end)
        return True
    log.info("rank=%s follows", env["RANK"])
    follow(calls)
    return False


def _led(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """`method` on all ranks. One that failed on any rank leaves no rank usable."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            self.calls.tell((method.__name__, args, kwargs))
            return method(self, *args, **kwargs)
        except BaseException as error:
            self.calls.over = True  # also where a signal broke the call off: ranks may be within it
            if not isinstance(error, Exception):
                raise
            said = _said(dist.get_world_size())
            if said and not isinstance(error, ValueError | FloatingPointError):
                raise said from error
            raise

    return call


class LeadingTrainer(MegatronTrainer):
    """Rank 0's trainer: its calls are made by every rank."""

    def __init__(
        self, followers: list["subprocess.Popen[bytes]"], calls: Calls, *args: Any, **kwargs: Any
    ) -> None:
        self.calls = calls
        self._followers = followers
        atexit.register(self.close)
        self.open(*args, **kwargs)

    def close(self) -> None:
        """Let the followers end; where a call failed, end them."""
        atexit.unregister(self.close)
        told = self.calls.end()
        for follower in self._followers:
            if not told:
                follower.kill()
            try:
                follower.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                follower.kill()
            if follower.stdin is not None:
                follower.stdin.close()

    def _begin(self, *args: Any, **kwargs: Any) -> None:
        for name in ("_model", "_wrapped", "_optimizer"):  # the last model goes before the next one comes
            self.__dict__.pop(name, None)
        gc.collect()
        super().__init__(*args, **kwargs)

    _begin.__name__ = "open"
    open = _led(_begin)
    reset_optimizer = _led(MegatronTrainer.reset_optimizer)
    supervised_step = _led(MegatronTrainer.supervised_step)
    policy_update = _led(MegatronTrainer.policy_update)
    logprobs = _led(MegatronTrainer.logprobs)
    greedy_matches = _led(MegatronTrainer.greedy_matches)
    tensors = _led(MegatronTrainer.tensors)
    save = _led(MegatronTrainer.save)
    save_state = _led(MegatronTrainer.save_state)
    load_state = _led(MegatronTrainer.load_state)
    offload = _led(MegatronTrainer.offload)
    onload = _led(MegatronTrainer.onload)


class Watch(threading.Thread):
    """Ends this process where a follower died and the main thread, waiting for it, does not notice."""

    def __init__(self, followers: list["subprocess.Popen[bytes]"]) -> None:
        super().__init__(name="ranks-watch", daemon=True)
        self._followers = followers

    def run(self) -> None:
        """Wait for a death, then for the leader's."""
        while all(follower.poll() is None for follower in self._followers):
            time.sleep(POLL_S)
        if all(follower.poll() in (None, 0) for follower in self._followers):
            return  # they were let go
        time.sleep(NOTICE_S)
        codes = {rank: follower.poll() for rank, follower in enumerate(self._followers, 1)}
        log.error("a rank died: exit codes %s; this process ends", codes)
        for follower in self._followers:
            follower.kill()
        os._exit(FAULT)


def _launch(rank: int, world: int, port: int) -> "subprocess.Popen[bytes]":
    where = ["--rank", str(rank), "--world", str(world), "--port", str(port)]
    return subprocess.Popen(
        [sys.executable, "-m", "k15.engines.megatron.follower", *where],
        stdin=subprocess.PIPE,  # closes when this process ends, however it does
        stdout=2,  # standard output may be a protocol's
    )


def _said(world: int) -> Exception | None:
    """What a follower said when it failed: ValueError where its input was bad."""
    store = dist.distributed_c10d._get_default_store()
    for rank in range(1, world):
        with contextlib.suppress(RuntimeError):
            if store.check([f"failed/{rank}"]):
                kind, _, message = store.get(f"failed/{rank}").decode().partition(": ")
                if kind == "ValueError":
                    return ValueError(f"rank {rank}: {message}")
                return ConnectionError(f"rank {rank} failed: {kind}: {message}")
    return None
