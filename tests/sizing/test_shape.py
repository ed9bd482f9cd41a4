"""A model's sizes, out of its config.json."""

from typing import Any

import pytest

from k15.sizing import shape
from tests.sizing.conftest import SaveConfig


def test_parameters_of_a_known_model(save_config: SaveConfig) -> None:
    assert shape.read(save_config()).num_parameters == 32_762_123_264  # as published: 32.8B
    tied = shape.read(save_config(tie_word_embeddings=True))
    assert tied.num_parameters == 32_762_123_264 - 151936 * 5120


def test_missing_fields_take_the_family_s_defaults(save_config: SaveConfig) -> None:
    plain = shape.read(save_config(num_key_value_heads=None, head_dim=None))
    assert (plain.num_groups, plain.head_dim) == (64, 80)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; sizes are known of llama, qwen2, qwen3"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
    ],
)
def test_what_is_wrong_is_named(save_config: SaveConfig, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        shape.read(save_config(**changes))


def test_a_folder_without_a_model_is_named(save_config: SaveConfig) -> None:
    directory = save_config()
    (directory / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        shape.read(directory)
    with pytest.raises(ValueError, match="no such file; --model takes a Hugging Face directory"):
        shape.read(directory / "nowhere")
