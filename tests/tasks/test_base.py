"""The random base model: seeded, in the recipe's shape, and readable as a Hugging Face directory."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from k15.recipes.data import BaseRecipe
from k15.tasks.tokenizer import train_tokenizer
from stages.base import given_directory, random_qwen

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
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    loaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
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
    assert loaded.dtype == torch.float32


GIVEN = BaseRecipe(source="directory")
WEIGHTS = "model.safetensors"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A user's directory in bf16, with files that are of no use here."""
    tokenizer = train_tokenizer(["1 + 1 = 2"] * 20, 300)
    model = random_qwen(BaseRecipe.parse(SHAPE, where="base"), tokenizer)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    for name in ("pytorch_model.bin", "model.gguf", "modeling.py", "other.safetensors", "onnx/model.json"):
        (tmp_path / "mine" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(b"x")
    return tmp_path / "mine"


def take(mine: Path) -> Path:
    given = SimpleNamespace(uri="s3://x/raw/y", download=lambda to: shutil.copytree(mine, to))
    scratch = mine.parent / f"scratch-{len(list(mine.parent.iterdir()))}"
    given_directory(SimpleNamespace(inputs={"model": given}, scratch=scratch), GIVEN, scratch / "model")
    return scratch / "model"


def test_a_given_model_is_taken_as_it_is(mine: Path) -> None:
    taken = take(mine)
    names = {path.name for path in taken.iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        WEIGHTS,
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert all((taken / name).read_bytes() == (mine / name).read_bytes() for name in names)
    assert AutoModelForCausalLM.from_pretrained(taken, dtype="auto").dtype == torch.bfloat16


def test_weights_that_do_not_fit_the_config_are_refused_and_never_made_up(mine: Path) -> None:
    whole = load_file(mine / WEIGHTS)
    name = "model.layers.1.mlp.up_proj.weight"
    spoilt = {
        rf"lacks 1 tensors: {name}; has 0": {n: t for n, t in whole.items() if n != name},
        r"lacks 0 tensors: none; has 1 too much: extra\.weight": whole | {"extra.weight": torch.ones(2)},
        rf"{name} is \(3, 64\), config\.json asks for \(96, 64\)": whole | {name: torch.ones(3, 64)},
    }
    for named, tensors in spoilt.items():
        save_file(tensors, mine / WEIGHTS)
        with pytest.raises(ValueError, match=rf"files\.model: s3://x/raw/y: .*{named}"):
            take(mine)


def test_a_directory_that_is_no_model_of_a_known_family_is_refused(mine: Path) -> None:
    config = json.loads((mine / "config.json").read_text())
    (mine / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(ValueError, match=r"'model_type': 'gpt2'.*llama, qwen2, qwen3"):
        take(mine)
    (mine / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: no such file"):
        take(mine)
    (mine / WEIGHTS).unlink()
    with pytest.raises(
        ValueError, match=r"pickled weights \(\.bin\) are not read: write them as safetensors"
    ):
        take(mine)
    with pytest.raises(ValueError, match=r"files\.model: missing"):
        given_directory(SimpleNamespace(inputs={}, scratch=mine), GIVEN, mine)


def test_a_qwen2_has_biases_and_the_heads_its_config_can_say() -> None:
    tokenizer = train_tokenizer(["1 + 1 = 2"] * 20, 300)
    recipe = BaseRecipe.parse({**SHAPE, "family": "qwen2"}, where="base")
    attention = random_qwen(recipe, tokenizer).model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (64, 64)
    assert 0 < float(attention.q_proj.bias.detach().abs().max()) <= recipe.bias_range
    with pytest.raises(ValueError, match="head_dim = 16: a qwen2 has hidden_size / num_attention_heads"):
        random_qwen(recipe.model_copy(update={"head_dim": 16}), tokenizer)
