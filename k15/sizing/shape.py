"""The sizes of a model that memory and time depend on, read from its config.json."""

import json
from dataclasses import dataclass
from pathlib import Path

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
    tied = bool(config.get("tie_word_embeddings", False))
    return Shape(family=config["model_type"], tied=tied, **flops.sizes(config, str(path)))
