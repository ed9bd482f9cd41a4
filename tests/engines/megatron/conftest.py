"""Tiny Hugging Face models on disk, whose norms and biases are not trivially 1 and 0."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

MakeModel = Callable[..., tuple[Path, Any]]
VOCABULARY = 101


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """make_model(family, tied=…) -> (directory, the transformers model)."""
    import transformers

    def make(
        family: str = "qwen3",
        *,
        tied: bool = True,
        seed: int = 0,
        noise: float = 0.1,
        vocabulary: int = VOCABULARY,
        hidden_size: int = 64,
        layers: int = 2,
    ) -> tuple[Path, Any]:
        kinds = {
            "llama": transformers.LlamaConfig,
            "qwen2": transformers.Qwen2Config,
            "qwen3": transformers.Qwen3Config,
        }
        config = kinds[family](
            vocab_size=vocabulary,
            hidden_size=hidden_size,
            intermediate_size=hidden_size * 3 // 2,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
            rms_norm_eps=1e-6,
        )
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * noise)
        directory = tmp_path / f"{family}-{tied}-{seed}"
        model.save_pretrained(directory)
        (directory / "tokenizer.json").write_text('{"kept": "as it was"}')
        return directory, model

    return make
