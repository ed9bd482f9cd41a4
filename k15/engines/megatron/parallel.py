"""The process group, Megatron's parallel state, and sums over it."""

import atexit
import logging
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import mappings
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from torch import Tensor

from k15.engines.megatron import cpu, devices
from k15.recipes.pipeline import Layout

T = TypeVar("T")
COLLECTIVE = timedelta(minutes=30)  # a rank waits this long for the others in one operation

_layout: Layout | None = None  # what Megatron's parallel state, which is the process's, was made for


def start(seed: int, layout: Layout | None = None) -> None:
    """Join the group torchrun describes, or be the only process, and lay Megatron's ranks out in it.

    Safe to call again, with another layout too: what was built for the last one is of no use then.
    ValueError where the layout asks for more or fewer processes than there are, or on CUDA where a host has
    more of them than GPUs.
    """
    global _layout  # what it describes is the process's
    layout = layout or Layout()
    logging.getLogger("megatron").setLevel(logging.WARNING)  # it prints its whole configuration otherwise
    cpu.install()
    if not dist.is_initialized():
        if dist.is_torchelastic_launched():
            meet(late=COLLECTIVE)
        else:
            join(dist.HashStore(), rank=0, world=1)
    _refuse_other_world(layout)
    if torch.cuda.is_available():
        devices.take()
    if layout != _layout:
        parallel_state.destroy_model_parallel()
        parallel_state.initialize_model_parallel(
            layout.tensor, layout.pipeline, context_parallel_size=layout.context
        )
        model_parallel_cuda_manual_seed(seed)
        _layout = layout


def meet(*, late: timedelta) -> None:
    """Join the process group that the environment describes; a rank may come `late` after the first."""
    store, rank, world = next(dist.rendezvous("env://", timeout=late))
    store.set(f"here/{rank}", "")
    store.wait([f"here/{other}" for other in range(world)], late)
    join(store, rank=rank, world=world)


def join(store: dist.Store, *, rank: int, world: int) -> None:
    """Join the process group that meets at `store`; every rank is there, or about to come."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=COLLECTIVE)
    atexit.register(_leave)


def _refuse_other_world(layout: Layout) -> None:
    if layout.sequence and layout.tensor == 1:
        raise ValueError("layout.sequence shares tokens among tensor-parallel ranks; set tensor > 1")
    if layout.world != dist.get_world_size():
        raise ValueError(
            f"the layout ({layout}) is for {layout.world} processes, and there are {dist.get_world_size()}; "
            "tensor × pipeline × context × data must be their number"
        )


def _leave() -> None:
    """Join the group's threads: one that still runs when the interpreter goes aborts the process."""
    if dist.is_initialized():
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Return once every rank has come here."""
    if dist.get_world_size() > 1:
        dist.barrier()


def data_rank() -> int:
    """This process's place among the data-parallel ranks."""
    return int(parallel_state.get_data_parallel_rank())


def data_size() -> int:
    """How many data-parallel ranks there are."""
    return int(parallel_state.get_data_parallel_world_size())


def context_rank() -> int:
    """This process's place among the ranks that share the tokens of every row."""
    return int(parallel_state.get_context_parallel_rank())


def context_size() -> int:
    """How many ranks share the tokens of every row."""
    return int(parallel_state.get_context_parallel_world_size())


def tensor_rank() -> int:
    """This process's place among the ranks that share every matrix."""
    return int(parallel_state.get_tensor_model_parallel_rank())


def stage() -> int:
    """This process's pipeline stage."""
    return int(parallel_state.get_pipeline_model_parallel_rank())


def is_first_stage() -> bool:
    """Whether this process embeds tokens."""
    return bool(parallel_state.is_pipeline_first_stage())


def is_last_stage() -> bool:
    """Whether this process works out log-probs."""
    return bool(parallel_state.is_pipeline_last_stage())


def sum_over_data(values: Tensor, *, context: bool = False) -> Tensor:
    """The sum of `values` over all data-parallel ranks, with `context` over their shares of rows too.

    In place.
    """
    return _reduce(values, dist.ReduceOp.SUM, context=context)


def max_over_data(values: Tensor, *, context: bool = False) -> Tensor:
    """The largest of `values` over the same ranks, in place."""
    return _reduce(values, dist.ReduceOp.MAX, context=context)


def sum_over_context(values: Tensor) -> Tensor:
    """The sum over the ranks that share rows, on each of them, in place; it has no gradient."""
    if context_size() > 1:
        dist.all_reduce(values, group=parallel_state.get_context_parallel_group())
    return values


def gather_over_context(values: Tensor) -> Tensor:
    """Every rank's `values` one after another along the first dimension; gradients flow back and add up."""
    group = parallel_state.get_context_parallel_group()
    return mappings.gather_from_sequence_parallel_region(values.contiguous(), group=group)


def from_last_stage(values: Tensor) -> Tensor:
    """The last pipeline stage's `values`, on every stage; in place."""
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        group = parallel_state.get_pipeline_model_parallel_group()
        dist.broadcast(values, parallel_state.get_pipeline_model_parallel_last_rank(), group=group)
    return values


def from_all_stages(value: T) -> list[T]:
    """Each pipeline stage's `value`, first stage first; on every stage."""
    group = parallel_state.get_pipeline_model_parallel_group()
    values: list[T | None] = [None] * group.size()
    if group.size() == 1:
        return [value]
    dist.all_gather_object(values, value, group=group)
    return [value for value in values if value is not None]


def _reduce(values: Tensor, op: dist.ReduceOp, *, context: bool) -> Tensor:
    group = parallel_state.get_data_parallel_group(with_context_parallel=context)
    if group.size() > 1:
        dist.all_reduce(values, op=op, group=group)
    return values
