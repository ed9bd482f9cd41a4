"""Models and steps of the sizes the command is for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from k15.sizing import shape
from k15.sizing.shape import Shape
from k15.sizing.workload import Workload

QWEN3_32B: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
SaveConfig = Callable[..., Path]


@pytest.fixture
def save_config(tmp_path: Path) -> SaveConfig:
    """save_config(field=value, …) -> a directory with the 32B model's config.json, changed so; None drops."""

    def save(**changes: Any) -> Path:
        config = {name: value for name, value in (QWEN3_32B | changes).items() if value is not None}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return save


@pytest.fixture
def large(save_config: SaveConfig) -> Shape:
    """A dense model of 32.8 billion parameters."""
    return shape.read(save_config())


@pytest.fixture
def long_rows() -> Workload:
    """Steps of 64 rows of 32k tokens."""
    return Workload(row_tokens=32768, microbatch_tokens=32768, step_tokens=64 * 32768)
