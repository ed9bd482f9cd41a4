"""Reward evaluation of several models on the same held-out prompts.

    python -m stages.evaluate --job s3://bucket/jobs/…json

Roles: `prompts`, and `model.<name>` for every model compared.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from k15.loops.evaluate import Outcome, answer_prompts, shown_trajectories, summarize
from k15.ports import Reward, Sampler
from k15.recipes.evaluate import EvaluateRecipe
from k15.records import Prompt
from k15.stage import StageContext, run_stage
from k15.store.tables import prompts_from_table
from k15.tasks.format import prompt_token_ids, response_text
from k15.tasks.tokenizer import load_tokenizer
from stages.rewards import open_judge
from stages.services import ModelServer, longest

log = logging.getLogger("stages.evaluate")
MODEL_ROLE = "model."


def body(ctx: StageContext, recipe: EvaluateRecipe) -> None:
    """Answer, judge, compare; the models one after the other, in one sampler where only weights differ."""
    artifact = ctx.inputs["prompts"]
    prompts = prompts_from_table(artifact.read_table("prompts.parquet"), artifact.uri)[: recipe.num_prompts]
    if len(prompts) < recipe.num_prompts:
        raise ValueError(
            f"evaluate.num_prompts = {recipe.num_prompts}, but only {len(prompts)} held-out prompts exist"
        )
    names = sorted(role.removeprefix(MODEL_ROLE) for role in ctx.inputs if role.startswith(MODEL_ROLE))
    if not names:
        raise ValueError("evaluate: no model to evaluate; give inputs such as model.rl = 'rl:model'")
    directories = {name: ctx.inputs[MODEL_ROLE + name].download(ctx.scratch / name) for name in names}
    tokenizers = {name: load_tokenizer(directory) for name, directory in directories.items()}
    max_tokens = recipe.max_response_tokens + max(
        longest([prompt_token_ids(tokenizer, prompt.text) for prompt in prompts])
        for tokenizer in tokenizers.values()
    )
    outcomes: dict[str, list[Outcome]] = {}
    server = ModelServer(ctx, max_tokens=max_tokens, precision=recipe.precision)
    with closing(server), open_judge(prompts, ctx.job.resources, ctx.scratch) as judge:
        for number, (name, directory) in enumerate(directories.items()):
            ctx.progress(number, len(names), "models")
            outcomes[name] = evaluate_model(server.serve(directory), tokenizers[name], recipe, prompts, judge)
            passed = [row.status == "correct" for row in outcomes[name] if row.sample >= 0]
            log.info(
                "model=%s sampled=%.4f responses=%d", name, sum(passed) / len(passed), len(outcomes[name])
            )
    ctx.progress(len(names), len(names), "models")
    write(ctx, recipe, outcomes, prompts)


def evaluate_model(
    sampler: Sampler, tokenizer: Any, recipe: EvaluateRecipe, prompts: Sequence[Prompt], judge: Reward
) -> list[Outcome]:
    """Every response of one model."""
    return answer_prompts(
        sampler,
        prompts,
        recipe,
        encode=lambda prompt: tuple(prompt_token_ids(tokenizer, prompt.text)),
        decode=lambda ids: response_text(tokenizer, ids),
        judge=judge,
    )


def write(
    ctx: StageContext,
    recipe: EvaluateRecipe,
    outcomes: Mapping[str, Sequence[Outcome]],
    prompts: Sequence[Prompt],
) -> None:
    """evaluation.json, samples.parquet, trajectories.json and the summary."""
    report = summarize(outcomes, recipe)
    rows = [
        {
            "model": name,
            "prompt_id": r.prompt_id,
            "task": r.task,
            "sample": r.sample,
            "status": str(r.status),
            "tokens": r.tokens,
            "answer": r.answer,
        }
        for name, some in outcomes.items()
        for r in some
    ]
    ctx.out.write_json("evaluation.json", report)
    ctx.out.write_table("samples.parquet", pa.Table.from_pylist(rows))
    ctx.out.write_json(
        "trajectories.json", shown_trajectories(outcomes, prompts, count=recipe.sample_trajectories)
    )
    for model in report["models"]:
        name = model["name"]
        ctx.summary |= {f"{name}_{key}": model[key] for key in ("sampled", "greedy", "tokens")}
        ctx.metrics.log(0, **{f"{name}_{key}": model[key] for key in ("sampled", "greedy", "tokens")})


if __name__ == "__main__":
    run_stage(EvaluateRecipe, body)
