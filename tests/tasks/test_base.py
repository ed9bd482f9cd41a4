"""The random base model: seeded, in the recipe's shape, and readable as a Hugging Face directory."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from k15.recipes.data import BaseRecipe
from k15.tasks.tokenizer import train_tokenizer
from stages.base import given_directory, load_directory, random_qwen

pytestmark = pytest.mark.engine
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_layers": 2,
    "num_attention_heads": 2,
    "head_dim": 32,
}


@pytest.mark.parametrize("tied", [False, True])
def test_the_recipe_gives_the_shape_and_the_seed_the_weights(tmp_path: Path, tied: bool) -> None:
    recipe = BaseRecipe.parse({**SHAPE, "seed": 3, "tie_word_embeddings": tied}, where="base")
    tokenizer = train_tokenizer(["1 + 1 = 2"] * 20, 300)
    model = random_qwen(recipe, tokenizer)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, loaded_tokenizer = load_directory(tmp_path)
    config = loaded.config
    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (2, 64, 32)
    assert config.vocab_size == len(tokenizer) == len(loaded_tokenizer)
    assert config.eos_token_id == loaded_tokenizer.eos_token_id
    again, other = (
        random_qwen(recipe, tokenizer),
        random_qwen(recipe.model_copy(update={"seed": 4}), tokenizer),
    )
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, again(ids).logits)
        assert not torch.equal(loaded(ids).logits, other(ids).logits)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.float32


def test_a_given_model_is_taken_by_content(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["1 + 1 = 2"] * 20, 300)
    random_qwen(BaseRecipe.parse(SHAPE, where="base"), tokenizer).save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    given = SimpleNamespace(uri="s3://x/raw/y", download=lambda to: shutil.copytree(tmp_path / "mine", to))
    context = SimpleNamespace(inputs={"model": given}, scratch=tmp_path / "scratch")
    recipe = BaseRecipe.parse({"source": "directory"}, where="base")
    model, loaded_tokenizer = given_directory(context, recipe)
    assert sum(p.numel() for p in model.parameters()) > 1000
    assert loaded_tokenizer.encode("1 + 1") == tokenizer.encode("1 + 1")
    with pytest.raises(ValueError, match=r"files\.model: missing"):
        given_directory(SimpleNamespace(inputs={}, scratch=tmp_path), recipe)
    (tmp_path / "mine" / "config.json").unlink()
    context.scratch = tmp_path / "again"
    with pytest.raises(ValueError, match=r"s3://x/raw/y has no config\.json"):
        given_directory(context, recipe)


def test_a_qwen2_has_biases_and_the_heads_its_config_can_say() -> None:
    tokenizer = train_tokenizer(["1 + 1 = 2"] * 20, 300)
    recipe = BaseRecipe.parse({**SHAPE, "family": "qwen2"}, where="base")
    attention = random_qwen(recipe, tokenizer).model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (64, 64)
    assert 0 < float(attention.q_proj.bias.detach().abs().max()) <= recipe.bias_range
    with pytest.raises(ValueError, match="head_dim = 16: a qwen2 has hidden_size / num_attention_heads"):
        random_qwen(recipe.model_copy(update={"head_dim": 16}), tokenizer)
