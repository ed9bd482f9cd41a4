"""One table between Hugging Face's and Megatron's names and layouts of Llama, Qwen2 and Qwen3 weights.

Loading joins the HF tensors of a row into the Megatron parameter; export and live transfer split it again,
to the bit. A parameter may be named by the local spec or by TransformerEngine's, which fuses norms into the
linear layer after them. Tensor parallelism cuts every HF tensor of a row alike, into equal parts along one
dimension; a rank's parameter is its parts joined.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Heads = tuple[int, int, int]  # query groups, queries in a group, head dimension
EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"
OUTPUT = "lm_head.weight"
OUTPUT_LAYER = "output_layer.weight"
NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One Megatron parameter: its possible names, the HF tensors it is made of, and how they lie in it.

    `cut` is the dimension of each HF tensor that tensor-parallel ranks share; None where all hold it whole.
    """

    megatron: tuple[str, ...]
    hugging_face: tuple[str, ...]
    layout: str = "whole"
    cut: int | None = None

    def of_layer(self, number: int) -> "Row":
        """The same row with the layer's prefixes."""
        return Row(
            tuple(f"decoder.layers.{number}.{name}" for name in self.megatron),
            tuple(f"model.layers.{number}.{name}" for name in self.hugging_face),
            self.layout,
            self.cut,
        )


_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
FIRST = (Row(("embedding.word_embeddings.weight",), (EMBEDDING,), cut=0),)
LAYER = (
    Row(
        ("input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight"), ("input_layernorm.weight",)
    ),
    Row(("self_attention.linear_qkv.weight",), tuple(f"{name}.weight" for name in _ATTENTION), "qkv", 0),
    Row(("self_attention.linear_qkv.bias",), tuple(f"{name}.bias" for name in _ATTENTION), "qkv", 0),
    Row(("self_attention.q_layernorm.weight",), ("self_attn.q_norm.weight",)),
    Row(("self_attention.k_layernorm.weight",), ("self_attn.k_norm.weight",)),
    Row(("self_attention.linear_proj.weight",), ("self_attn.o_proj.weight",), cut=1),
    Row(
        ("pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight"), ("post_attention_layernorm.weight",)
    ),
    Row(("mlp.linear_fc1.weight",), ("mlp.gate_proj.weight", "mlp.up_proj.weight"), "gate_up", 0),
    Row(("mlp.linear_fc2.weight",), ("mlp.down_proj.weight",), cut=1),
)
LAST = (
    Row(("decoder.final_layernorm.weight",), (NORM,)),
    Row((OUTPUT_LAYER,), (OUTPUT,), cut=0),
)


def rows(parameters: Collection[str], num_layers: int) -> list[tuple[str, Row]]:
    """(Megatron name, row) of every parameter, in HF order; ValueError names a parameter no row knows."""
    table = [*FIRST, *(row.of_layer(n) for n in range(num_layers) for row in LAYER), *LAST]
    present = set(parameters)
    found = [(name, row) for row in table for name in row.megatron if name in present]
    unknown = present - {name for name, _ in found}
    if unknown:
        raise ValueError(f"no row of the weight table knows these Megatron parameters: {_some(unknown)}")
    return found


def check_names(expected: Iterable[str], present: Iterable[str], *, where: str) -> None:
    """ValueError says which tensors `where` lacks and which it has too much."""
    wanted, given = set(expected), set(present)
    lacks, extra = wanted - given, given - wanted
    if lacks or extra:
        raise ValueError(
            f"{where}: does not fit its config.json; "
            f"lacks {len(lacks)} tensors: {_some(lacks)}; has {len(extra)} too much: {_some(extra)}"
        )


def join(layout: str, tensors: Sequence[Tensor], heads: Heads) -> Tensor:
    """The Megatron parameter made of a row's HF tensors."""
    return _JOIN[layout](tensors, heads)


def split(layout: str, parameter: Tensor, heads: Heads) -> list[Tensor]:
    """A row's HF tensors, contiguous; the inverse of `join`."""
    return _SPLIT[layout](parameter, heads)


def _join_qkv(tensors: Sequence[Tensor], heads: Heads) -> Tensor:
    # Megatron interleaves by query group: the group's queries, its key, its value.
    groups, _, dim = heads
    tail = tensors[0].shape[1:]
    return torch.cat(
        [t.reshape(groups, t.shape[0] // (groups * dim), dim, *tail) for t in tensors], 1
    ).reshape(-1, *tail)


def _split_qkv(parameter: Tensor, heads: Heads) -> list[Tensor]:
    groups, queries, dim = heads
    tail = parameter.shape[1:]
    grouped = parameter.reshape(groups, queries + 2, dim, *tail)
    return [part.reshape(-1, *tail) for part in grouped.split([queries, 1, 1], 1)]


_JOIN: dict[str, Callable[[Sequence[Tensor], Heads], Tensor]] = {
    "whole": lambda tensors, _: tensors[0],
    "gate_up": lambda tensors, _: torch.cat(list(tensors)),
    "qkv": _join_qkv,
}
_SPLIT: dict[str, Callable[[Tensor, Heads], list[Tensor]]] = {
    "whole": lambda parameter, _: [parameter],
    "gate_up": lambda parameter, _: list(parameter.chunk(2)),
    "qkv": _split_qkv,
}


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:NAMES_SHOWN]
    return ", ".join(shown) + (", …" if len(names) > NAMES_SHOWN else "") if shown else "none"
