"""What the supervised stages share: model and rows in, the fitted model out."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from k15.algo.schedule import learning_rate
from k15.engines.megatron.trainer import MegatronTrainer
from k15.loops.supervised import batches, fit
from k15.recipes.supervised import Optimizer, SupervisedRecipe
from k15.records import Sequence as Row
from k15.stage import StageContext, StageStopped
from k15.store.tables import demonstrations_from_table, text_from_table
from k15.tasks.rows import demonstration_row, refuse_longer, text_row

MakeRows = Callable[[Any, StageContext], list[Row]]  # tokenizer, context -> rows


def fit_rows(ctx: StageContext, recipe: SupervisedRecipe, make_rows: MakeRows) -> None:
    """Fit the model to the rows in seeded order, and write it as part `model`."""
    directory = ctx.inputs["model"].download(ctx.scratch / "input")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = make_rows(tokenizer, ctx)
    refuse_longer(rows, recipe.max_tokens, where=ctx.inputs["data"].uri)
    trainer = MegatronTrainer(
        directory,
        threads=ctx.job.resources.cores,
        max_tokens_per_microbatch=recipe.max_tokens_per_microbatch,
        seed=recipe.seed,
    )
    refuse_longer(rows, trainer.max_positions, where=f"{ctx.inputs['data'].uri}, for the model's positions")
    fit_batches(
        ctx,
        trainer,
        batches(rows, recipe.examples_per_step, recipe.seed),
        recipe.optimizer,
        steps=recipe.steps,
    )
    ctx.summary["num_rows"] = len(rows)


def fit_batches(
    ctx: StageContext,
    trainer: MegatronTrainer,
    rows: Iterable[Sequence[Row]],
    optimizer: Optimizer,
    *,
    steps: int,
) -> None:
    """Make `steps` updates and write the model; StageStopped where SIGTERM came first."""
    trainer.reset_optimizer(optimizer)
    rate = partial(
        learning_rate,
        steps=steps,
        peak=optimizer.lr,
        final=optimizer.final_lr,
        warmup_steps=optimizer.warmup_steps,
        decay=optimizer.schedule,
    )
    done = fit(
        trainer,
        rows,
        steps=steps,
        rate=rate,
        log=ctx.metrics.log,
        progress=ctx.progress,
        stopping=ctx.stopping,
    )
    if done.steps < steps:
        raise StageStopped(f"stopped after step {done.steps} of {steps}")
    fitted: Path = ctx.scratch / "output"
    trainer.save(fitted)
    ctx.out.add_directory("model", fitted)
    ctx.summary.update(done.summary(), num_parameters=trainer.num_parameters)


def demonstration_rows(tokenizer: Any, ctx: StageContext) -> list[Row]:
    """The demonstrations of input `data`, with loss on responses only."""
    data = ctx.inputs["data"]
    table = data.read_table("demonstrations.parquet")
    return [
        demonstration_row(tokenizer, shown.prompt, shown.response)
        for shown in demonstrations_from_table(table, data.uri)
    ]


def document_rows(tokenizer: Any, ctx: StageContext) -> list[Row]:
    """The documents of input `data`, one a row, with loss on every token."""
    data = ctx.inputs["data"]
    return [text_row(tokenizer, text) for text in text_from_table(data.read_table("text.parquet"), data.uri)]
