"""Whether a model, decoding greedily, would say what a row says.

Suffixes: T tokens of the batch, L tokens in the loss, H hidden size, V vocabulary.
"""

import torch
from torch import Tensor

from k15.engines.megatron.batch import Packed
from k15.engines.megatron.loss_model import LossModel, logprobs

CHUNK_TOKENS = 1024  # whose logits are held at once


@torch.no_grad()
def matches(model: LossModel, wrapped: torch.nn.Module, packed: Packed) -> Tensor:
    """For each token in the loss, whether no other has a larger logit in its place. Shape L, bool.

    `wrapped` is `model` or a wrapper of it.
    """
    weight_VH = (
        model.shared_embedding_or_output_weight() if model.share_embeddings_and_output_weights else None
    )
    weight_VH = model.output_layer.weight if weight_VH is None else weight_VH
    states_LH = _states(model, wrapped, packed)[packed.in_loss_T]
    labels_L = packed.labels_T[packed.in_loss_T]
    found = []
    for states, labels in zip(states_LH.split(CHUNK_TOKENS), labels_L.split(CHUNK_TOKENS), strict=True):
        logits_V = states @ weight_VH.T
        found.append(logits_V.gather(1, labels[:, None])[:, 0] >= logits_V.amax(1))
    return torch.cat(found)


def _states(model: LossModel, wrapped: torch.nn.Module, packed: Packed) -> Tensor:
    """What the last norm gives: the states the output layer reads. Shape [T, H]."""
    kept: list[Tensor] = []
    hook = model.decoder.register_forward_hook(lambda _module, _inputs, states: kept.append(states))
    try:
        logprobs(wrapped, packed)
    finally:
        hook.remove()
    return kept[0][:, 0]
