"""Long-context evaluation: retrieval and variable tracking by length and depth, in a heat map.

    python -m stages.context --job s3://bucket/jobs/…json

Roles: `model.<name>` for every model compared. Writes context.json and heatmap.html.
"""

import logging
import os
from functools import partial
from pathlib import Path

from k15.engines.megatron import architecture, ranks
from k15.engines.megatron.trainer import MegatronTrainer
from k15.loops.context import Answer, answers, probes, summarize
from k15.recipes.context import ContextRecipe
from k15.report.heat import heat_page
from k15.stage import StageContext, run_stage
from k15.tasks.tokenizer import load_tokenizer

log = logging.getLogger("stages.context")
MODEL_ROLE = "model."


def body(ctx: StageContext, recipe: ContextRecipe) -> None:
    """Every model on the same documents."""
    names = [role.removeprefix(MODEL_ROLE) for role in ctx.inputs if role.startswith(MODEL_ROLE)]
    if not names:
        raise ValueError(
            "context: no model to evaluate; give inputs such as model.activated = 'activate:model'"
        )
    if unknown := sorted(set(recipe.rope_bases) - set(names)):
        raise ValueError(f"rope_bases: {', '.join(unknown)}: not among the models {', '.join(names)}")
    longest = max(recipe.lengths)
    if longest > recipe.max_tokens_per_microbatch:
        raise ValueError(
            f"max_tokens_per_microbatch={recipe.max_tokens_per_microbatch} is less than a length of {longest}"
        )
    found: dict[str, list[Answer]] = {}
    trainer: MegatronTrainer | None = None
    for number, name in enumerate(names):
        ctx.progress(number, len(names), "models")
        directory = ctx.inputs[MODEL_ROLE + name].download(ctx.scratch / name)
        trainer = open_model(ctx, recipe, directory, rope_base=recipe.rope_bases.get(name), last=trainer)
        encode = partial(load_tokenizer(directory).encode, add_special_tokens=False)
        found[name] = answers(trainer, list(probes(recipe, encode)))
    report = summarize(found, recipe)
    ctx.out.write_json("context.json", report)
    ctx.out.write_bytes("heatmap.html", heat_page(report).encode())
    for model in report["models"]:
        for task in model["tasks"]:
            ctx.summary[f"{model['name']}_{task['task']}_usable_tokens"] = float(task["usable_tokens"])
            log.info("model=%s task=%s usable=%d", model["name"], task["task"], task["usable_tokens"])
    ctx.progress(len(names), len(names), "models")


def open_model(
    ctx: StageContext,
    recipe: ContextRecipe,
    directory: Path,
    *,
    rope_base: float | None,
    last: MegatronTrainer | None,
) -> MegatronTrainer:
    """One model, beyond the positions its config.json allows where a length asks for it."""
    return ranks.lead(
        directory,
        layout=ctx.job.resources.layout,
        env=os.environ,
        last=last,
        threads=ctx.job.resources.cores,
        max_tokens_per_microbatch=recipe.max_tokens_per_microbatch,
        rope_base=rope_base,
        max_positions=max(*recipe.lengths, architecture.read(directory).max_positions),
        precision=recipe.precision,
    )


if __name__ == "__main__":
    run_stage(ContextRecipe, body, meet=ranks.meet)
