"""The model that the CUDA tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cuda_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen3 with untied embeddings, in fp32."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.Qwen3Config(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder
