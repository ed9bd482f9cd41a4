"""Floating point operations of a dense transformer, and the share of a machine's peak that a run reached.

The count is of the model, not of the program: what is worked out twice, for memory's sake, counts once, and
padding counts nothing. So it follows Chowdhery et al. 2022 (PaLM, appendix B), who define MFU so, but for two
things: attention is causal, and only tokens in the loss meet the output layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FAMILIES = ("llama", "qwen2", "qwen3")  # whose layers are counted, by a config.json's model_type
FORWARD_AND_BACKWARD = 3  # the backward pass multiplies each matrix with two others


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a Llama, Qwen2 or Qwen3 model decides how much there is to multiply."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_groups: int  # key-value heads
    head_dim: int
    vocab_size: int


def sizes(config: Mapping[str, Any], where: str) -> dict[str, int]:
    """The fields of a Shape out of a config.json; ValueError names `where` and the field that is wrong."""
    heads = whole(config, "num_attention_heads", where)
    hidden = whole(config, "hidden_size", where)
    groups = whole(config, "num_key_value_heads", where, default=heads)
    if heads % groups:
        raise ValueError(
            f"{where}: num_attention_heads is {heads}, which num_key_value_heads={groups} does not divide"
        )
    return {
        "hidden_size": hidden,
        "intermediate_size": whole(config, "intermediate_size", where),
        "num_layers": whole(config, "num_hidden_layers", where),
        "num_heads": heads,
        "num_groups": groups,
        "head_dim": whole(config, "head_dim", where, default=hidden // heads),
        "vocab_size": whole(config, "vocab_size", where),
    }


def whole(config: Mapping[str, Any], field: str, where: str, default: int | None = None) -> int:
    """A size in a config.json, `default` where it is null or missing; ValueError where it is none."""
    value = config.get(field)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{where}: {field} is {value!r}; it must be a whole number of 1 or more")
    return value


def layer_weights(shape: Shape) -> int:
    """Weights of a layer's matrices: h·d·(2·heads + 2·groups) of attention, 3·h·f of the gated MLP."""
    attention = shape.hidden_size * shape.head_dim * (2 * shape.num_heads + 2 * shape.num_groups)
    return attention + 3 * shape.hidden_size * shape.intermediate_size


def forward_flops(shape: Shape, num_tokens: int, num_pairs: int, num_loss_tokens: int) -> int:
    """Operations of a forward pass: 2 for each weight and token, 4·heads·d for each pair.

    `num_pairs` counts the (query, key) pairs that causal attention sees: n·(n + 1)/2 in a row of n tokens.
    """
    pairs = 4 * shape.num_heads * shape.head_dim * num_pairs
    layers = shape.num_layers * (2 * layer_weights(shape) * num_tokens + pairs)
    return layers + 2 * shape.hidden_size * shape.vocab_size * num_loss_tokens


def training_flops(shape: Shape, lengths_N: Sequence[int], num_loss_tokens: int) -> int:
    """Operations of a forward and backward pass over rows of these lengths that do not see each other."""
    pairs = sum(length * (length + 1) // 2 for length in lengths_N)
    return FORWARD_AND_BACKWARD * forward_flops(shape, sum(lengths_N), pairs, num_loss_tokens)


def model_flops_utilisation(flops: float, seconds: float, peak_tflops: float) -> float:
    """MFU: `flops` in `seconds` as a share of the peak of all devices together, given in 10¹² a second."""
    if seconds <= 0 or peak_tflops <= 0:
        raise ValueError(f"seconds={seconds} and peak_tflops={peak_tflops} must be above 0")
    return flops / seconds / (peak_tflops * 1e12)
