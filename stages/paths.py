"""Verified long paths (METHOD.md §7): a model is sampled on prompts, and what the reward confirms is kept.

    python -m stages.paths --job s3://bucket/jobs/…json

Part: longcot (demonstrations), as the data stage's part of that name. Every lot of prompts is committed as a
round of the stage: killed anywhere, the next run goes on after the last one.
"""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from k15.loops.paths import Found, demonstrations, figures, find_paths
from k15.ports import Reward, Sampler
from k15.recipes.paths import PathsRecipe
from k15.records import Prompt, Status
from k15.stage import StageContext, StageStopped, run_stage
from k15.store.tables import demonstrations_to_table, prompts_from_table
from k15.tasks.format import prompt_token_ids, response_text
from k15.tasks.tokenizer import load_tokenizer
from stages.rewards import open_judge
from stages.services import ModelServer, longest

log = logging.getLogger("stages.paths")
FOUND_FILE = "found.parquet"


def body(ctx: StageContext, recipe: PathsRecipe) -> None:
    """Sample input `model` on input `prompts`, and write what is kept."""
    artifact = ctx.inputs["prompts"]
    prompts = prompts_from_table(artifact.read_table("prompts.parquet"), artifact.uri)
    if recipe.num_prompts > len(prompts):
        raise ValueError(f"num_prompts = {recipe.num_prompts}, but only {len(prompts)} prompts exist")
    prompts = prompts[: recipe.num_prompts or None]
    directory = ctx.inputs["model"].download(ctx.scratch / "model")
    tokenizer = load_tokenizer(directory)
    asked = {prompt.id: encoded(tokenizer, prompt, recipe.instruction) for prompt in prompts}
    max_tokens = recipe.max_response_tokens + longest(list(asked.values()))
    server = ModelServer(ctx, max_tokens=max_tokens, precision=recipe.precision)
    with closing(server), open_judge(prompts, ctx.job.resources, ctx.scratch) as judge:
        write(ctx, recipe, server.serve(directory), tokenizer, prompts, asked, judge)


def encoded(tokenizer: Any, prompt: Prompt, instruction: str) -> tuple[int, ...]:
    """The question as it is asked, behind the instruction where there is one."""
    text = f"{instruction}\n\n{prompt.text}" if instruction else prompt.text
    return tuple(prompt_token_ids(tokenizer, text))


def committed(ctx: StageContext) -> list[list[Found]]:
    """The lots an earlier process committed, in order."""
    lots = []
    for record in ctx.store.rounds(ctx.job.key):
        rows = ctx.store.open_round(record).read_table(FOUND_FILE).to_pylist()
        lots.append([Found(**{**row, "status": Status(row["status"])}) for row in rows])
    if lots:
        log.info("resumed lots=%d responses=%d", len(lots), sum(map(len, lots)))
    return lots


def commit(ctx: StageContext, number: int, lot: Sequence[Found]) -> None:
    """Make a lot durable; StageStopped where the stage was asked to end."""
    attempt = ctx.store.begin(ctx.job.key)
    rows = [{**asdict(found), "status": str(found.status)} for found in lot]
    attempt.write_table(FOUND_FILE, pa.Table.from_pylist(rows))
    if not ctx.store.commit_round(ctx.job.key, number, attempt, {}):
        raise RuntimeError(f"lot {number} was committed by another writer; this one lost its lease")
    if ctx.stopping():
        raise StageStopped(f"stopped after lot {number}; a rerun continues there")


def write(
    ctx: StageContext,
    recipe: PathsRecipe,
    sampler: Sampler,
    tokenizer: Any,
    prompts: list[Prompt],
    asked: dict[str, tuple[int, ...]],
    judge: Reward,
) -> None:
    """longcot/demonstrations.parquet, samples.parquet (every response and what became of it), the summary."""
    found = list(
        find_paths(
            sampler,
            prompts,
            recipe,
            encode=lambda prompt: asked[prompt.id],
            decode=lambda ids: response_text(tokenizer, ids),
            judge=judge,
            done=committed(ctx),
            commit=lambda number, lot: commit(ctx, number, lot),
            progress=ctx.progress,
        )
    )
    ctx.summary |= figures(found, prompts)
    log.info(" ".join(f"{name}={value:g}" for name, value in ctx.summary.items()))
    kept = demonstrations(found, prompts)
    rows = [
        {
            "prompt_id": one.prompt_id,
            "sample": one.sample,
            "status": str(one.status),
            "cut": one.cut,
            "tokens": one.tokens,
            "kept": one.kept,
        }
        for one in found
    ]
    ctx.out.write_table("longcot/demonstrations.parquet", demonstrations_to_table(kept))
    ctx.out.write_table("samples.parquet", pa.Table.from_pylist(rows))


if __name__ == "__main__":
    run_stage(PathsRecipe, body)
