"""Rejection sampling for real: a fitted model, vLLM and the reward; and long-CoT SFT on what it found."""

from dataclasses import replace
from pathlib import Path

import pytest

from k15.recipes.data import BaseRecipe
from k15.recipes.paths import PathsRecipe
from k15.recipes.pipeline import Resources
from k15.recipes.supervised import LongCotRecipe, Optimizer, SftRecipe
from k15.records import Part, Prompt, Status
from k15.store.job import Job
from k15.store.tables import (
    Demonstration,
    demonstrations_from_table,
    demonstrations_to_table,
    prompts_to_table,
)
from k15.tasks.tokenizer import train_tokenizer
from stages import longcot, paths, sft
from stages.base import random_qwen
from stages.rewards import open_judge
from tests.e2e.driver import wait_for
from tests.rl_stage import RlStage, sums
from tests.s3 import s3_server
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
    with open_judge(prompts, Resources(), tmp_path) as judge:
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
    assert context.store.num_committed == 1
    assert context.summary["prompts_solved"] == context.summary["kept"] == len(kept) < 8
    data = LocalInput(tables={"demonstrations.parquet": table})
    again = LocalContext({"model": fitted, "data": data}, tmp_path / "longcot")
    longcot.body(again, LongCotRecipe(epochs=2, max_tokens=128, sequences_per_step=1))
    assert again.summary["steps"] >= 1


def test_killed_after_a_lot_it_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    asked = [replace(prompt, id=f"{prompt.id}-{n}") for n in range(3) for prompt in sums().prompts]
    with s3_server(tmp_path / "s3") as server:
        stage = RlStage(server, "paths", tmp_path / "run", replace(sums(), prompts=asked))
        try:
            inputs = {"model": stage.prepare(60).ref("model"), "prompts": stage.prompts("train")}
            recipe = {"samples_per_prompt": 2, "max_response_tokens": 96, "seed": 3}
            job = stage.job("paths", recipe, inputs)
            stage.run(job)
            undisturbed = stage.manifest(job)
            forget(stage, job)
            killed = stage.start(job)
            wait_for(lambda: len(stage.rounds(job)) == 1, "a lot")
            killed.kill()
            killed.wait()
            (first,) = stage.rounds(job)
            said = stage.run(job)
            assert "resumed lots=1" in said
            assert stage.rounds(job)[0] == first
            assert stage.manifest(job).digest == undisturbed.digest
        finally:
            stage.end()


def forget(stage: RlStage, job: Job) -> None:
    """As if the stage had never run."""
    for folder in ("stages", "rounds"):
        stage.store.objects.delete([i.path for i in stage.store.objects.list(f"{folder}/{job.key}")])
