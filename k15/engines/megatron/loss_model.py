"""GPTModel with a last step that works out log-probs of the tokens in the loss, and nothing else."""

from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor

from k15.engines.megatron.batch import Packed
from k15.engines.megatron.token_logprobs import token_logprobs


class LossModel(GPTModel):  # type: ignore[misc]
    """A GPTModel that, given labels and a loss mask, never holds the logits of a sequence.

    While `less_best` is set, each log-prob is given less the largest one in its place, without gradient.
    """

    less_best = False

    def _postprocess(
        self, *, hidden_states: Tensor, labels: Tensor | None, loss_mask: Tensor | None, **rest: Any
    ) -> Tensor:
        """States [t, 1, h], labels and mask [1, t] -> losses [1, tokens in the loss], fp32.

        A mask of numbers other than 0 holds the gradient that the loss will have to each token's log-prob.
        """
        if labels is None or loss_mask is None or not self.post_process:
            return super()._postprocess(
                hidden_states=hidden_states, labels=labels, loss_mask=loss_mask, **rest
            )
        group = self.pg_collection.tp
        if self.config.sequence_parallel:
            hidden_states = gather_from_sequence_parallel_region(hidden_states, group=group)
        else:
            hidden_states = copy_to_tensor_model_parallel_region(hidden_states, group=group)
        tied = self.share_embeddings_and_output_weights
        states_TH, labels_T, mask_T = hidden_states[:, 0], labels[0], loss_mask[0]
        (kept,) = mask_T.nonzero(as_tuple=True)
        if len(kept) < len(mask_T):  # else a copy would only cost memory
            states_TH, labels_T, mask_T = states_TH.index_select(0, kept), labels_T[kept], mask_T[kept]
        logprobs_L = token_logprobs(
            states_TH,
            self.shared_embedding_or_output_weight() if tied else self.output_layer.weight,
            labels_T,
            group=group,
            weights_L=mask_T if mask_T.is_floating_point() else None,
            less_best=self.less_best,
        )
        return -logprobs_L[None]


def logprobs(module: torch.nn.Module, packed: Packed) -> Tensor:
    """log p of every label in the loss, and 0 for the others, fp32. Shape T.

    `module` is the LossModel or a wrapper of it.
    """
    return spread(forward(module, packed), packed)


def forward(module: torch.nn.Module, packed: Packed, *, gradient: float | None = None) -> Tensor:
    """Losses of the tokens in the loss, [1, L]; on an earlier pipeline stage the states for the next one.

    `gradient` promises what the loss will have to every log-prob alike, so that the logits need not be worked
    out again in the backward pass.
    """
    return module(
        packed.tokens_T[None],
        packed.positions_T[None],
        None,
        labels=packed.labels_T[None],
        loss_mask=(packed.in_loss_T if gradient is None else packed.in_loss_T * gradient)[None],
        packed_seq_params=packed.layout,
    )


def spread(losses: Tensor, packed: Packed) -> Tensor:
    """The last stage's output of `forward` as log-probs of all tokens, 0 outside the loss. Shape T."""
    return losses.new_zeros(packed.in_loss_T.shape).masked_scatter(packed.in_loss_T, -losses[0])
