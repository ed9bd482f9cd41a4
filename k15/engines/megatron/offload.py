"""All that a trainer holds in proportion to its model, out of its device's memory and back.

A tensor keeps its place in every view, bucket and hook: its storage is emptied, and filled again to the bit.
What stays on a GPU is the context, the communicators and workspaces of libraries: 1 to 3 GB by the sizing's
reckoning (k15.sizing.layouts.RESERVED_BYTES).
"""

import gc
import mmap
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from k15.engines import pinned
from k15.engines.megatron import optimizer as adam

ALIGNED = 512  # bytes, as CUDA's own blocks are
WAIT_S = 60.0  # for what a process that has just ended held: the driver takes it back a little later
POLL_S = 0.1


class HostCopy:
    """What a trainer has offloaded, in host memory that is used again from turn to turn; pinned for CUDA."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray())
        self._away: list[tuple[torch.UntypedStorage, int, Tensor | None]] = []

    def offload(self, model: DistributedDataParallel, optimizer: MegatronOptimizer) -> int:
        """Empty every large storage; the bytes that were freed. Does nothing where that is done already.

        Weights, master weights and Adam's moments are kept; gradients are not, as every step begins by
        zeroing them. No tensor of the trainer may be read until `onload`.
        """
        if self._away:
            return 0
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        gradients = {_key(storage): storage for storage in _gradients(model)}
        kept = {_key(storage): storage for storage in _state(model, optimizer)}
        kept = {key: storage for key, storage in kept.items() if key not in gradients}
        places = self._places([storage.nbytes() for storage in kept.values()])
        for storage, place in zip(kept.values(), places, strict=True):
            place.copy_(_bytes_of(storage))
            self._empty(storage, place)
        for storage in gradients.values():
            self._empty(storage, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return self.num_bytes

    def onload(self) -> int:
        """Take everything back to where it was; the bytes of it. Does nothing where nothing is away.

        RuntimeError where the device has no room for it.
        """
        num_bytes = self.num_bytes
        if torch.cuda.is_available():
            _wait_for_room(num_bytes)
        for storage, size, place in self._away:
            storage.resize_(size)
            flat = _bytes_of(storage)
            if place is None:
                flat.zero_()
            else:
                flat.copy_(place, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._away.clear()
        return num_bytes

    @property
    def num_bytes(self) -> int:
        """That are away."""
        return sum(size for _, size, _ in self._away)

    def _empty(self, storage: torch.UntypedStorage, place: Tensor | None) -> None:
        self._away.append((storage, storage.nbytes(), place))
        storage.resize_(0)

    def _places(self, sizes: Sequence[int]) -> list[Tensor]:
        """Room for each size, in bytes, one after another."""
        spans = [-(-size // ALIGNED) * ALIGNED for size in sizes]
        if sum(spans) > len(self._memory):
            if self._memory:
                pinned.unpin(self._memory)
            self._memory = memoryview(mmap.mmap(-1, sum(spans)))
            pinned.pin(self._memory)
        flat = torch.frombuffer(self._memory, dtype=torch.uint8)
        starts = [0, *accumulate(spans)]
        return [flat[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _gradients(model: DistributedDataParallel) -> Iterator[torch.UntypedStorage]:
    for buffer in [*model.buffers, *model.expert_parallel_buffers]:
        yield buffer.grad_data.untyped_storage()


def _state(model: DistributedDataParallel, optimizer: MegatronOptimizer) -> Iterator[torch.UntypedStorage]:
    """Of weights, master weights and moments; a storage may come several times."""
    for parameter in model.parameters():
        yield parameter.untyped_storage()
    for inner in adam.inner(optimizer):
        for group in inner.param_groups:
            for master in group["params"]:
                yield master.untyped_storage()
        for held in inner.state.values():
            for value in held.values():
                if isinstance(value, Tensor) and value.dim():  # a count of updates stays
                    yield value.untyped_storage()


def _key(storage: torch.UntypedStorage) -> int:
    """The same for all tensors that lie in one storage."""
    return int(storage._cdata)


def _bytes_of(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)  # type: ignore[call-overload, no-any-return]


def _wait_for_room(num_bytes: int) -> None:
    """Return once the device has as much free; RuntimeError where it has not within WAIT_S."""
    end_s = time.monotonic() + WAIT_S
    while (free := torch.cuda.mem_get_info()[0]) < num_bytes:
        if time.monotonic() > end_s:
            raise RuntimeError(
                f"the trainer's {num_bytes / 1e9:.1f} GB do not fit: after {WAIT_S:.0f} s its GPU has"
                f" {free / 1e9:.1f} GB free; is a sampler, or another program, still on it?"
            )
        time.sleep(POLL_S)
