"""Long-context activation (METHOD.md §7): a new RoPE base, then growing lengths.

python -m stages.activate --job s3://bucket/jobs/…json
"""

from collections.abc import Iterator, Sequence

from transformers import AutoTokenizer

from k15.engines.megatron import architecture
from k15.engines.megatron.trainer import MegatronTrainer
from k15.loops.supervised import shuffled
from k15.recipes.supervised import ActivateRecipe, ContextPhase
from k15.records import Sequence as Row
from k15.stage import StageContext, run_stage
from k15.tasks.rows import full_rows, short_rows
from stages.supervised import document_rows, fit_batches


def body(ctx: StageContext, recipe: ActivateRecipe) -> None:
    """Train input `model` at each phase's length on the documents of input `data`."""
    longest = max(phase.length for phase in recipe.phases)
    if longest > recipe.max_tokens_per_microbatch:
        raise ValueError(
            f"max_tokens_per_microbatch={recipe.max_tokens_per_microbatch} is less than a phase of {longest}"
        )
    directory = ctx.inputs["model"].download(ctx.scratch / "input")
    documents = document_rows(AutoTokenizer.from_pretrained(directory), ctx)
    trainer = MegatronTrainer(
        directory,
        threads=ctx.job.resources.cores,
        max_tokens_per_microbatch=recipe.max_tokens_per_microbatch,
        rope_base=recipe.rope_base,
        max_positions=max(longest, architecture.read(directory).max_positions),
        seed=recipe.seed,
    )
    steps = sum(phase.steps for phase in recipe.phases)
    fit_batches(ctx, trainer, phase_batches(documents, recipe), recipe.optimizer, steps=steps)
    ctx.summary.update(rope_base=recipe.rope_base, max_positions=trainer.max_positions)


def phase_batches(documents: Sequence[Row], recipe: ActivateRecipe) -> Iterator[list[Row]]:
    """The batches of every phase in turn; each sequence is `length` tokens in one row or in several."""
    for number, phase in enumerate(recipe.phases):
        stream = shuffled(documents, recipe.seed + number)
        yield from _phase(stream, phase, recipe.full_attention_share)


def _phase(documents: Iterator[Row], phase: ContextPhase, full_share: float) -> Iterator[list[Row]]:
    full, short = full_rows(documents, phase.length), short_rows(documents, phase.length)
    sequence = 0
    for _ in range(phase.steps):
        batch: list[Row] = []
        for _ in range(phase.sequences_per_step):
            # Full rows come at even distances, so any share is met over a phase, small batches or not.
            wants_full = int((sequence + 1) * full_share) > int(sequence * full_share)
            batch += [next(full)] if wants_full else next(short)
            sequence += 1
        yield batch


if __name__ == "__main__":
    run_stage(ActivateRecipe, body)
