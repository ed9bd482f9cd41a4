"""What an HF config.json says of a model, and the Megatron configuration of the same model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from torch.nn import functional

from k15.engines.megatron.checkpoint import read_config

FAMILIES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class Architecture:
    """A Llama, Qwen2 or Qwen3 model as its config.json describes it, overrides already applied."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_groups: int  # key-value heads
    head_dim: int
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
    config = _updated(read_config(directory), rope_base, max_positions)
    _refuse_unsupported(path, config)
    try:
        return _parse(config)
    except KeyError as error:
        raise ValueError(f"{path}: field {error} is missing") from None


def transformer_config(arch: Architecture, *, cuda: bool) -> TransformerConfig:
    """Megatron's configuration: fp32 without fusions on CPU, bf16 with TransformerEngine on CUDA."""
    dtype = torch.bfloat16 if cuda else torch.float32
    return TransformerConfig(
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
        params_dtype=dtype,
        pipeline_dtype=dtype,
        autocast_dtype=dtype,
        bf16=cuda,
        use_cpu_initialization=not cuda,
        perform_initialization=True,
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


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _refuse_unsupported(path: Path, config: dict[str, Any]) -> None:
    rope = _rope(config)
    refused = {
        "model_type": config.get("model_type") not in FAMILIES,
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "attention_bias": config.get("model_type") != "qwen2" and bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "rope_parameters.rope_type": rope.get("rope_type", rope.get("type", "default")) != "default",
        "rope_parameters.partial_rotary_factor": rope.get("partial_rotary_factor", 1.0) != 1.0,
        "quantization_config": config.get("quantization_config") is not None,
    }
    wrong = [field for field, bad in refused.items() if bad]
    if wrong:
        values = {
            field: rope.get(field.split(".")[1]) if "." in field else config.get(field) for field in wrong
        }
        raise ValueError(f"{path}: not supported: {values}; use a plain model of type {', '.join(FAMILIES)}")


def _parse(config: dict[str, Any]) -> Architecture:
    heads = config["num_attention_heads"]
    rope = _rope(config)
    return Architecture(
        family=config["model_type"],
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_groups=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        norm_epsilon=config["rms_norm_eps"],
        rope_base=float(rope["rope_theta"] if "rope_theta" in rope else config["rope_theta"]),
        max_positions=config["max_position_embeddings"],
        tied=bool(config.get("tie_word_embeddings", False)),
        config=config,
    )
