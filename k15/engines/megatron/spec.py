"""The layers Megatron builds: TransformerEngine's on CUDA, torch's own on CPU."""

from typing import Any

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer import ModuleSpec, TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from torch import Tensor
from torch.nn import functional

from k15.engines.megatron import parallel
from k15.engines.megatron.batch import Block, PackedRows, Span

MASK_SIZE = 1 << 24  # entries of a mask, where ranks share rows


def layer_spec(config: TransformerConfig, *, cuda: bool) -> ModuleSpec | TransformerBlockSubmodules:
    """The one place that chooses: TransformerEngine's layers on CUDA, SDPA and a plain norm on CPU."""
    if cuda:
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)
    layer = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = RowAttention
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RmsNorm
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RmsNorm
    layers = [layer] * get_num_layers_to_build(config)
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=RmsNorm)


class RmsNorm(torch.nn.Module):
    """x / rms(x) · weight, computed in fp32."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        # Where ranks share the tokens, each has a part of this weight's gradient; Megatron adds them up.
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and type as x."""
        return functional.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)


class RowAttention(MegatronModule):  # type: ignore[misc]
    """Causal attention in which the rows of a packed batch do not see each other.

    Rows of similar length are scattered into one padded block; padding follows a row's tokens, so causality
    hides it and the result is exact. Much faster on CPU than a loop over rows or a block mask. Where ranks
    share rows, keys and values are gathered from all of them, and this rank's queries see those up to their
    own position.
    """

    def __init__(
        self, config: TransformerConfig, *_: Any, softmax_scale: float | None = None, **__: Any
    ) -> None:
        super().__init__(config=config)
        self.scale = softmax_scale

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        packed_seq_params: PackedRows | None = None,
        **_: Any,
    ) -> Tensor:
        """query [s, b, h, d], key and value [s, b, g, d] -> [s, b, h·d]; a packed batch has b = 1."""
        if attention_mask is not None:
            raise ValueError("this attention is causal and takes no mask")
        if packed_seq_params is None:
            out = self._attend(*(x.permute(1, 2, 0, 3) for x in (query, key, value)))
            return out.permute(2, 0, 1, 3).flatten(2)
        query, key, value = query[:, 0], key[:, 0], value[:, 0]
        if packed_seq_params.gathered_F is not None:
            order_F = packed_seq_params.gathered_F
            key, value = (parallel.gather_over_context(x).index_select(0, order_F) for x in (key, value))
        parts = [self._block(query, key, value, block) for block in packed_seq_params.blocks]
        return torch.cat(parts).unsqueeze(1)

    def _block(self, query: Tensor, key: Tensor, value: Tensor, block: Block) -> Tensor:
        padded = _pad(query, block.queries), _pad(key, block.keys), _pad(value, block.keys)
        out = self._attend(*padded) if block.positions is None else self._see(*padded, block.positions)
        out = out.transpose(1, 2).flatten(2).flatten(0, 1)
        return out if block.queries.slots_T is None else out.index_select(0, block.queries.slots_T)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            is_causal=mask is None,
            scale=self.scale,
            enable_gqa=query.size(1) != key.size(1),
        )

    def _see(self, query: Tensor, key: Tensor, value: Tensor, positions: Tensor) -> Tensor:
        """Each query sees the keys up to its position; in slices, so that no mask exceeds MASK_SIZE."""
        rows, width = len(positions), key.size(2)
        step = max(1, MASK_SIZE // (rows * width))
        parts = []
        for part, places in zip(query.split(step, 2), positions.split(step, 1), strict=True):
            reach = int(places.max()) + 1
            mask = torch.arange(reach) <= places[:, None, :, None]
            parts.append(self._attend(part, key[:, :, :reach], value[:, :, :reach], mask))
        return torch.cat(parts, 2)


def _pad(x: Tensor, span: Span) -> Tensor:
    """[t, h, d] -> [rows, h, width, d]"""
    x = x[span.start : span.end]
    shape = (span.num_rows * span.width, *x.shape[1:])
    flat = x if span.slots_T is None else x.new_zeros(shape).index_copy(0, span.slots_T, x)
    return flat.view(span.num_rows, span.width, *x.shape[1:]).transpose(1, 2)


class RowRotary(RotaryEmbedding):  # type: ignore[misc]
    """Rotary angles gathered once per batch by each token's position in its row."""

    def get_rotary_seq_len(self, *arguments: Any, **_: Any) -> Any:
        """What `forward` takes: the packed batch itself, or the length of a plain one."""
        packed = arguments[4]
        return packed if isinstance(packed, PackedRows) else super().get_rotary_seq_len(*arguments)

    def forward(self, max_seq_len: Any, **arguments: Any) -> Tensor:
        """[t, 1, 1, d] angles."""
        if isinstance(max_seq_len, PackedRows):
            return self.get_emb(max_seq_len.longest)[max_seq_len.positions_T]
        return super().forward(max_seq_len, **arguments)
