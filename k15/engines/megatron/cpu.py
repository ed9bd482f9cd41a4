"""Let megatron-core run without CUDA, which it hard-codes in factories, random states and optimizers."""

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from megatron.core.tensor_parallel import random as megatron_random
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 2**31 - 1  # the most mallopt takes


class _CudaLiteralToCpu(TorchFunctionMode):
    """Factories called with device="cuda" or pinned memory make plain CPU tensors."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if kwargs:
            if kwargs.get("pin_memory"):
                kwargs = {**kwargs, "pin_memory": False}
            if kwargs.get("device") == "cuda":
                kwargs = {**kwargs, "device": CPU}
        out = func(*args, **(kwargs or {}))
        if func is torch.Tensor.type and isinstance(out, str):  # the optimizers compare the name of the type
            return out.replace("torch.", "torch.cuda.")
        return out


class _CpuRandomStates(megatron_random.CudaRNGStatesTracker):  # type: ignore[misc]
    """The named random states of the original, on the CPU generator."""

    def add(self, name: str, seed: int) -> None:
        if name in self.states_:
            raise ValueError(f"a random state named {name} exists already")
        self.states_[name] = torch.Generator().manual_seed(seed).get_state()

    @contextlib.contextmanager
    def fork(self, name: str = "model-parallel-rng") -> Iterator[None]:
        kept = torch.get_rng_state()
        torch.set_rng_state(self.states_[name])
        try:
            yield
        finally:
            self.states_[name] = torch.get_rng_state()
            torch.set_rng_state(kept)


_mode: _CudaLiteralToCpu | None = None


def install() -> None:
    """Make this process's torch answer megatron's CUDA calls on the CPU; no-op with CUDA or done before."""
    global _mode  # what it holds is the process's
    if torch.cuda.is_available() or _mode is not None:
        return
    torch.cpu._init_amx()  # a process without leave to use the tile unit dies at its first small bf16 product
    _mode = _CudaLiteralToCpu()
    patches: dict[str, Callable[..., Any]] = {
        "current_device": lambda: CPU,  # megatron only ever passes it on as device=
        "synchronize": lambda *_, **__: None,
        "manual_seed": lambda seed: torch.manual_seed(seed),
    }
    for name, function in patches.items():
        setattr(torch.cuda, name, function)
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, misc, assignment]
    megatron_random._CUDA_RNG_STATE_TRACKER = _CpuRandomStates()
    megatron_random._CUDA_RNG_STATE_TRACKER_INITIALIZED = True
    megatron_random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    megatron_random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    _mode.__enter__()


def keep_freed_memory() -> None:
    """Have the C library keep what tensors free for the next ones; no-op where it is not glibc, or with CUDA.

    Otherwise the kernel hands out large activations anew each time, page by page, zeroed: a tenth of a step.
    """
    if torch.cuda.is_available():
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
