"""Rejection sampling for real: a fitted model, vLLM and the reward; and long-CoT SFT on what it found."""

from pathlib import Path

import pytest

from k15.recipes.data import BaseRecipe
from k15.recipes.paths import PathsRecipe
from k15.recipes.supervised import LongCotRecipe, Optimizer, SftRecipe
from k15.records import Part, Prompt, Status
from k15.rewards import judge
from k15.store.tables import (
    Demonstration,
    demonstrations_from_table,
    demonstrations_to_table,
    prompts_to_table,
)
from k15.tasks.tokenizer import train_tokenizer
from stages import longcot, paths, sft
from stages.base import random_qwen
from tests.stages.local import LocalContext, LocalInput

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron"),
]
SIZE = {"vocab_size": 280, "hidden_size": 64, "intermediate_size": 128, "num_layers": 2, "head_dim": 32}
ASKED = [f"What follows {number}?" for number in range(8)]


@pytest.fixture
def fitted(tmp_path: Path) -> LocalInput:
    """A model that answers every question with 4, after none to two steps of thought."""
    rows = [
        Demonstration(question, "So. " * steps + "#### 4", "any", "next")
        for question in ASKED
        for steps in range(3)
    ]
    tokenizer = train_tokenizer([text for row in rows for text in (row.prompt, row.response)], 280)
    recipe = BaseRecipe.parse(
        {**SIZE, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128},
        where="test",
    )
    directory = tmp_path / "random"
    random_qwen(recipe, tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    data = LocalInput(tables={"demonstrations.parquet": demonstrations_to_table(rows)})
    context = LocalContext({"model": LocalInput(directory), "data": data}, tmp_path / "sft")
    fast = Optimizer(lr=5e-3, final_lr=1e-3, warmup_steps=2)
    sft.body(context, SftRecipe(steps=40, examples_per_step=24, max_tokens=128, optimizer=fast))
    return LocalInput(context.parts["model"])


def test_long_verified_paths_are_found_and_fitted(fitted: LocalInput, tmp_path: Path) -> None:
    prompts = [
        Prompt(f"p{number}", (Part("text", question),), str(number + 1), "next", 0.0, "math")
        for number, question in enumerate(ASKED)
    ]
    inputs = {"model": fitted, "prompts": LocalInput(tables={"prompts.parquet": prompts_to_table(prompts)})}
    context = LocalContext(inputs, tmp_path / "paths")
    recipe = PathsRecipe(samples_per_prompt=24, max_response_tokens=40, keep="longest")
    paths.body(context, recipe)
    table = context.written["longcot/demonstrations.parquet"]
    posed = {prompt.text: prompt for prompt in prompts}
    kept = demonstrations_from_table(table, "paths")
    assert ASKED[3] in {row.prompt for row in kept}  # what follows 3 is 4
    assert all(judge(posed[row.prompt], row.response).status is Status.CORRECT for row in kept)
    samples = context.written["samples.parquet"].to_pylist()
    assert len(samples) == context.summary["responses"] == 8 * 24
    for row in [row for row in samples if row["kept"]]:
        correct = [
            one["tokens"]
            for one in samples
            if one["prompt_id"] == row["prompt_id"] and one["status"] == "correct"
        ]
        assert row["tokens"] == max(correct) > min(correct)
    assert context.summary["prompts_solved"] == context.summary["kept"] == len(kept) < 8
    data = LocalInput(tables={"demonstrations.parquet": table})
    again = LocalContext({"model": fitted, "data": data}, tmp_path / "longcot")
    longcot.body(again, LongCotRecipe(epochs=2, max_tokens=128, sequences_per_step=1))
    assert again.summary["steps"] >= 1
