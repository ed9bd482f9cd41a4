"""The process group and Megatron's parallel state."""

import atexit
import logging

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from k15.engines.megatron import cpu


def start(seed: int, *, tensor_parallel: int = 1, pipeline_parallel: int = 1) -> None:
    """Join the group torchrun describes, or be the only process; safe to call again.

    Every process is a data-parallel rank. ValueError for tensor or pipeline parallelism: weights are neither
    cut nor gathered across ranks.
    """
    if tensor_parallel != 1 or pipeline_parallel != 1:
        raise ValueError(
            f"tensor_parallel={tensor_parallel}, pipeline_parallel={pipeline_parallel}: "
            "only 1 and 1 are supported; use data parallelism (torchrun --nproc-per-node N)"
        )
    logging.getLogger("megatron").setLevel(logging.WARNING)  # it prints its whole configuration otherwise
    cpu.install()
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if dist.is_torchelastic_launched():
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        atexit.register(_leave)
    if torch.cuda.is_available():
        torch.cuda.set_device(dist.get_rank() % torch.cuda.device_count())
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(tensor_parallel, pipeline_parallel)
        model_parallel_cuda_manual_seed(seed)


def _leave() -> None:
    """Join the group's threads: one that still runs when the interpreter goes aborts the process."""
    if dist.is_initialized():
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def data_rank() -> int:
    """This process's place among the data-parallel ranks."""
    return int(parallel_state.get_data_parallel_rank())


def data_size() -> int:
    """How many data-parallel ranks there are."""
    return int(parallel_state.get_data_parallel_world_size())


def sum_over_data(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all data-parallel ranks, in place."""
    if data_size() > 1:
        dist.all_reduce(values, group=parallel_state.get_data_parallel_group())
    return values


def max_over_data(values: torch.Tensor) -> torch.Tensor:
    """The largest of `values` over all data-parallel ranks, in place."""
    if data_size() > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX, group=parallel_state.get_data_parallel_group())
    return values
