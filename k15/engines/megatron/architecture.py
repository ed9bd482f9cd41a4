"""What an HF config.json says of a model, and the Megatron configuration of the same model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from megatron.core.transformer import TransformerConfig
from torch.nn import functional

from k15.algo.flops import FAMILIES, Shape, sizes, whole
from k15.engines.megatron import fields
from k15.engines.megatron.checkpoint import read_config
from k15.recipes.pipeline import Layout

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Architecture(Shape):
    """A Llama, Qwen2 or Qwen3 model as its config.json describes it, overrides already applied."""

    family: str
    norm_epsilon: float
    rope_base: float
    max_positions: int
    tied: bool  # the output layer is the embedding
    config: dict[str, Any]  # the whole config.json, updated

    @property
    def heads(self) -> tuple[int, int, int]:
        """(query groups, queries in a group, head dimension)."""
        return self.num_groups, self.num_heads // self.num_groups, self.head_dim


def read(
    directory: Path, *, rope_base: float | None = None, max_positions: int | None = None
) -> Architecture:
    """The architecture of an HF directory; ValueError names the file and the field it cannot honour."""
    path = directory / "config.json"
    given = read_config(directory)
    _refuse_unsupported(path, given)
    fields.refuse_unmapped(path, given)
    fields.rope_base(path, given)
    return _parse(path, _updated(given, rope_base, max_positions))


def refuse_undivided(arch: Architecture, layout: Layout) -> None:
    """ValueError names what of the model `layout` cannot share out evenly."""
    uneven = [
        f"{size} {noun} by {name}={parts}"
        for noun, size, name, parts in (
            ("query heads", arch.num_heads, "tensor", layout.tensor),
            ("query groups (key-value heads)", arch.num_groups, "tensor", layout.tensor),
            ("columns of the MLP", arch.intermediate_size, "tensor", layout.tensor),
            ("tokens of the vocabulary", arch.vocab_size, "tensor", layout.tensor),
            ("layers", arch.num_layers, "pipeline", layout.pipeline),
        )
        if size % parts
    ]
    if uneven:
        raise ValueError(f"the layout does not divide the model: {'; '.join(uneven)}; choose divisors")


def dtype(precision: Precision, *, cuda: bool) -> torch.dtype:
    """The type of the weights; ValueError where this machine has no layers for it."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r}: use one of {', '.join(get_args(Precision))}")
    if cuda and precision != "bfloat16":
        raise ValueError(f'precision="{precision}": on CUDA the layers train in bf16; set "bfloat16"')
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def transformer_config(
    arch: Architecture, layout: Layout, *, cuda: bool, precision: torch.dtype, recompute: bool
) -> TransformerConfig:
    """Megatron's configuration: without fusions on CPU, with TransformerEngine on CUDA.

    With `recompute` a layer's input alone is kept for the backward pass.
    """
    return TransformerConfig(
        recompute_granularity="full" if recompute else None,
        recompute_method="uniform" if recompute else None,
        recompute_num_layers=1 if recompute else None,
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        context_parallel_size=layout.context,
        sequence_parallel=layout.sequence and layout.tensor > 1,
        variable_seq_lengths=layout.pipeline > 1,  # microbatches differ in their number of tokens
        moe_token_dispatcher_type="alltoall",  # without experts too, only this one goes with the line above
        calculate_per_token_loss=True,  # gradients of replicas add up; the loss is divided where it is made
        num_layers=arch.num_layers,
        hidden_size=arch.hidden_size,
        num_attention_heads=arch.num_heads,
        num_query_groups=arch.num_groups,
        kv_channels=arch.head_dim,
        ffn_hidden_size=arch.intermediate_size,
        normalization="RMSNorm",
        layernorm_epsilon=arch.norm_epsilon,
        gated_linear_unit=True,
        activation_func=functional.silu,
        add_bias_linear=False,
        add_qkv_bias=arch.family == "qwen2",
        qk_layernorm=arch.family == "qwen3",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        params_dtype=precision,
        pipeline_dtype=precision,
        autocast_dtype=precision,
        bf16=precision == torch.bfloat16,
        use_cpu_initialization=not cuda,
        perform_initialization=False,  # every weight comes from a checkpoint
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        apply_rope_fusion=cuda,
        batch_p2p_sync=cuda,
        attention_softmax_in_fp32=True,
    )


def _updated(config: dict[str, Any], rope_base: float | None, max_positions: int | None) -> dict[str, Any]:
    updated = dict(config)
    if rope_base is not None:
        if "rope_parameters" in config:
            updated["rope_parameters"] = {**(config["rope_parameters"] or {}), "rope_theta": rope_base}
        if "rope_theta" in config or "rope_parameters" not in config:
            updated["rope_theta"] = rope_base
    if max_positions is not None:
        updated["max_position_embeddings"] = max_positions
    return updated


def _refuse_unsupported(path: Path, config: dict[str, Any]) -> None:
    refused = {
        "model_type": config.get("model_type") not in FAMILIES,
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": config.get("model_type") != "qwen2" and bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "quantization_config": config.get("quantization_config") is not None,
    }
    wrong = {field: config.get(field) for field, bad in refused.items() if bad}
    if wrong:
        raise ValueError(f"{path}: not supported: {wrong}; use a plain model of type {', '.join(FAMILIES)}")


def _parse(path: Path, config: dict[str, Any]) -> Architecture:
    return Architecture(
        family=config["model_type"],
        norm_epsilon=fields.number(path, config, "rms_norm_eps"),
        rope_base=fields.rope_base(path, config),
        max_positions=whole(config, "max_position_embeddings", str(path)),
        tied=fields.switch(path, config, "tie_word_embeddings"),
        config=config,
        **sizes(config, str(path)),
    )
