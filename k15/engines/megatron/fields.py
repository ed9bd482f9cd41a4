"""The fields of a config.json: those that are read, those of no effect here, and all others, refused."""

from pathlib import Path
from typing import Any

MAPPED = {
    "attention_bias",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "quantization_config",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
}
OF_NO_EFFECT = {
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "is_llama_config",
    "layer_types",  # all of them must be full_attention
    "max_window_layers",  # only with use_sliding_window, as the next
    "sliding_window",
    "pad_token_id",
    "pretraining_tp",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "use_cache",
}


def refuse_unmapped(path: Path, config: dict[str, Any]) -> None:
    """ValueError names the fields of `path` that may ask for what is not built here.

    A field that is off (null, false, 0 or empty) asks for nothing; one beginning with _ is the writer's own.
    """
    known = MAPPED | OF_NO_EFFECT
    unmapped = {
        name: value
        for name, value in config.items()
        if value and name not in known and not name.startswith("_")
    }
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    if kinds:
        unmapped["layer_types"] = sorted(kinds)
    if unmapped:
        raise ValueError(f"{path}: not mapped: {unmapped}; take fields that change nothing out of the file")
