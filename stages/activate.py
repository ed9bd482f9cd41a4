"""Long-context activation (METHOD.md §7): a new RoPE base, then growing lengths.

python -m stages.activate --job s3://bucket/jobs/…json
"""

from k15.engines.megatron import architecture, ranks
from k15.loops.plan import context_parts
from k15.loops.stream import Stream
from k15.recipes.activation import ActivateRecipe
from k15.stage import StageContext, run_stage
from k15.tasks.tokenizer import load_tokenizer
from stages.rows import EVERYTHING, read_data
from stages.supervised import fit_batches, open_heldout, open_trainer, record, single_course


def body(ctx: StageContext, recipe: ActivateRecipe) -> None:
    """Train input `model` at each phase's length on the documents of its data sets."""
    longest = max(phase.length for phase in recipe.phases)
    if longest > recipe.max_tokens_per_microbatch:
        raise ValueError(
            f"max_tokens_per_microbatch={recipe.max_tokens_per_microbatch} is less than a phase of {longest}"
        )
    directory = ctx.inputs["model"].download(ctx.scratch / "input")
    tokenizer = load_tokenizer(directory)
    rows = read_data(ctx, recipe, tokenizer, EVERYTHING)
    heldout = open_heldout(ctx, recipe, tokenizer, EVERYTHING, longest=longest)
    stream = Stream(rows, context_parts(recipe, {name: some.lengths for name, some in rows.items()}))
    positions = max(longest, architecture.read(directory).max_positions)
    trainer = open_trainer(ctx, recipe, directory, rope_base=recipe.rope_base, max_positions=positions)
    rate = single_course(recipe.optimizer, stream.steps)
    fit_batches(
        ctx, trainer, stream.batches, recipe.optimizer, rate=rate, steps=stream.steps, heldout=heldout
    )
    record(ctx, stream, rows)
    ctx.summary.update(rope_base=recipe.rope_base, max_positions=trainer.max_positions)


if __name__ == "__main__":
    run_stage(ActivateRecipe, body, meet=ranks.meet)
