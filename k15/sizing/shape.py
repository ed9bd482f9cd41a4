"""The sizes of a model that memory and time depend on, read from its config.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k15.algo import flops


@dataclass(frozen=True, slots=True)
class Shape(flops.Shape):
    """A Llama, Qwen2 or Qwen3 model by its sizes."""

    family: str
    tied: bool  # the output layer is the embedding

    @property
    def query_width(self) -> int:
        """All query heads side by side."""
        return self.num_heads * self.head_dim

    @property
    def group_width(self) -> int:
        """All key heads side by side; values are as wide."""
        return self.num_groups * self.head_dim

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding, and of the output layer."""
        return self.vocab_size * self.hidden_size

    def layer_parameters(self, tensor: int = 1) -> int:
        """Of a layer on one of `tensor` ranks: matrices and QKV biases are cut, norms are not."""
        biases = self.query_width + 2 * self.group_width if self.family == "qwen2" else 0
        head_norms = 2 * self.head_dim if self.family == "qwen3" else 0
        return (flops.layer_weights(self) + biases) // tensor + 2 * self.hidden_size + head_norms

    @property
    def num_parameters(self) -> int:
        """Of the whole model, a tied output layer counted once."""
        ends = self.embedding_parameters * (1 if self.tied else 2) + self.hidden_size
        return self.num_layers * self.layer_parameters() + ends


def read(directory: Path) -> Shape:
    """The shape of a Hugging Face directory; ValueError names the file and what is wrong with it."""
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; --model takes a Hugging Face directory")
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(config, dict) or config.get("model_type") not in flops.FAMILIES:
        found = config.get("model_type") if isinstance(config, dict) else config
        raise ValueError(f"{path}: model_type is {found!r}; sizes are known of {', '.join(flops.FAMILIES)}")
    heads = _size(path, config, "num_attention_heads")
    hidden = _size(path, config, "hidden_size")
    return Shape(
        family=config["model_type"],
        vocab_size=_size(path, config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_size(path, config, "intermediate_size"),
        num_layers=_size(path, config, "num_hidden_layers"),
        num_heads=heads,
        num_groups=_size(path, config, "num_key_value_heads", default=heads),
        head_dim=_size(path, config, "head_dim", default=hidden // heads),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _size(path: Path, config: dict[str, Any], field: str, default: int | None = None) -> int:
    value = config.get(field)
    if value is None:
        value = default
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{path}: {field} is {value!r}; it must be a whole number of 1 or more")
    return value
