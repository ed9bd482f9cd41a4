"""The fields of a config.json: those that are read, those of no effect here, and all others, refused."""

import math
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

PLAIN = {"rope_type": ("default",), "type": ("default",), "partial_rotary_factor": (1.0,)}  # of positions


def rope_base(path: Path, config: dict[str, Any]) -> float:
    """The base of plain rotary positions.

    ValueError names `path` and what of rope_parameters or rope_scaling asks for other ones, or two bases.
    """
    for field, held in (("rope_parameters", {"rope_theta"}), ("rope_scaling", set())):
        told = config.get(field) or {}
        if not isinstance(told, dict):
            raise ValueError(f"{path}: {field} is {told!r}; it must be an object")
        others = {name: value for name, value in told.items() if name not in held and value is not None}
        if wrong := {name: value for name, value in others.items() if value not in PLAIN.get(name, ())}:
            raise ValueError(
                f"{path}: not supported: {field}: {wrong}; use a model of plain rotary positions"
            )
    places = (config.get("rope_parameters") or {}, config)
    bases = {number(path, place, "rope_theta") for place in places if place.get("rope_theta") is not None}
    if not bases:
        raise ValueError(f"{path}: field 'rope_theta' is missing")
    if len(bases) > 1:
        raise ValueError(f"{path}: rope_theta is given as {sorted(bases)}; leave one of them")
    return bases.pop()


def number(path: Path, config: dict[str, Any], field: str) -> float:
    """A number above 0 in a config.json; ValueError names the field that holds none."""
    value = config.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{path}: {field} is {value!r}; it must be a number above 0")
    return float(value)


def switch(path: Path, config: dict[str, Any], field: str) -> bool:
    """Whether a field of a config.json is on; ValueError where it is neither on nor off."""
    value = config.get(field)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{path}: {field} is {value!r}; it must be true or false")
    return bool(value)


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
    kinds = config.get("layer_types") or []
    if not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds):
        unmapped["layer_types"] = kinds
    if unmapped:
        raise ValueError(f"{path}: not mapped: {unmapped}; take fields that change nothing out of the file")
