"""Forward and backward passes over microbatches, through the pipeline where there is one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from k15.engines.megatron import loss_model
from k15.engines.megatron.batch import Packed

Loss = Callable[[Packed, Tensor], Tensor]  # a packed batch, its labels' log-probs -> its part of the loss


def backward(
    module: torch.nn.Module, packs: Sequence[Packed], loss: Loss, total: Tensor, *, gradient: float | None
) -> None:
    """Add each microbatch's part of the loss to `total`, and its gradients to the buffers.

    `loss` is called, and `total` grows, on the last pipeline stage alone. `gradient`: as `loss_model` has it.
    """

    def use(packed: Packed, logprobs_T: Tensor) -> Tensor:
        part = loss(packed, logprobs_T)
        total.add_(part.detach())
        return part

    _run(module, packs, use, forward_only=False, gradient=gradient)


@torch.no_grad()
def forward(module: torch.nn.Module, packs: Sequence[Packed], see: Callable[[Packed, Tensor], None]) -> None:
    """Show `see` each microbatch's log-probs, on the last pipeline stage."""

    def use(packed: Packed, logprobs_T: Tensor) -> Tensor:
        see(packed, logprobs_T)
        return logprobs_T.new_zeros(())

    _run(module, packs, use, forward_only=True, gradient=None)


def _run(
    module: torch.nn.Module,
    packs: Sequence[Packed],
    use: Loss,
    *,
    forward_only: bool,
    gradient: float | None,
) -> None:
    """Megatron's schedule for this layout: 1F1B with a pipeline, one microbatch after another without."""

    def step(source: Any, wrapped: torch.nn.Module) -> tuple[Tensor, Callable[[Tensor], Any]]:
        packed = next(source)

        def finish(output: Tensor) -> tuple[Tensor, Tensor, None]:
            # The loss is scaled where it is made: no tokens are reported to divide it by.
            return use(packed, loss_model.spread(output, packed)), torch.tensor(0, dtype=torch.int), None

        return loss_model.forward(wrapped, packed, gradient=gradient), finish

    if packs:
        get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=iter(packs),
            model=[module],
            num_microbatches=len(packs),
            seq_length=1,  # stages tell each other the length of every microbatch
            micro_batch_size=1,
            forward_only=forward_only,
        )
