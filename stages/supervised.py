"""What the supervised stages share: model and rows in, the fitted model out."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from k15.algo.flops import model_flops_utilisation
from k15.algo.schedule import Course, in_turn
from k15.engines.megatron import architecture, ranks
from k15.engines.megatron.profiler import profiled
from k15.engines.megatron.trainer import MegatronTrainer
from k15.loops.plan import supervised_parts
from k15.loops.stream import Batch, Stream
from k15.loops.supervised import Heldout, Saver, Stepper, fit
from k15.recipes.supervised import HELDOUT, FitRecipe, Optimizer, Phase, Rates, SupervisedRecipe
from k15.records import Sequence as Row
from k15.stage import StageContext, StageStopped
from k15.tasks.row_file import RowFile
from k15.tasks.rows import refuse_longer, split
from k15.tasks.tokenizer import load_tokenizer
from stages.checkpoints import Checkpoints
from stages.rows import Kinds, read_data, read_role

Rate = Callable[[int], float]


def fit_rows(ctx: StageContext, recipe: SupervisedRecipe, kinds: Kinds, *, longer: str = "refuse") -> None:
    """Fit the model to the rows in seeded order, phase by phase, and write it as part `model`.

    `longer` says what becomes of a row over a phase's max_tokens: "refuse", "split", or "defer" to a phase
    that takes it. No step is made on data that are refused.
    """
    phases = recipe.all_phases()
    directory = ctx.inputs["model"].download(ctx.scratch / "input")
    tokenizer = load_tokenizer(directory)
    max_positions = architecture.read(directory).max_positions
    rows = _data(ctx, recipe, tokenizer, kinds, longer)
    _refuse(rows, recipe, longer, max_positions)
    longest = max(phase.max_tokens for phase in phases)
    heldout = open_heldout(ctx, recipe, tokenizer, kinds, longest=min(longest, max_positions))
    parts = supervised_parts(phases, {name: some.lengths for name, some in rows.items()}, recipe.seed)
    trainer = open_trainer(ctx, recipe, directory)
    rate = in_turn([_course(phase, part.steps) for phase, part in zip(phases, parts, strict=True)])
    stream = Stream(rows, parts)
    fit_batches(
        ctx, trainer, stream.batches, recipe.optimizer, rate=rate, steps=stream.steps, heldout=heldout
    )
    record(ctx, stream, rows)


def open_trainer(
    ctx: StageContext,
    recipe: FitRecipe,
    directory: Path,
    *,
    rope_base: float | None = None,
    max_positions: int | None = None,
) -> MegatronTrainer:
    """The trainer of the model in `directory`, as recipe and resources ask for it."""
    return ranks.lead(
        directory,
        layout=ctx.job.resources.layout,
        env=os.environ,
        threads=ctx.job.resources.cores,
        max_tokens_per_microbatch=recipe.max_tokens_per_microbatch,
        rope_base=rope_base,
        max_positions=max_positions,
        seed=recipe.seed,
        precision=recipe.precision,
        recompute=recipe.recompute,
    )


def record(ctx: StageContext, stream: Stream, rows: dict[str, RowFile]) -> None:
    """Write mixture.json: what was drawn from each data set in each phase."""
    phases = stream.counts()
    ctx.out.write_json("mixture.json", {"phases": phases})
    ctx.summary["num_rows"] = sum(map(len, rows.values()))
    filled = [phase["fill"] for phase in phases if phase["fill"] is not None]
    if filled:
        ctx.summary["fill"] = min(filled)


def single_course(rates: Rates, steps: int) -> Rate:
    """One schedule over a whole run."""
    return in_turn([_course(rates, steps)])


def _course(rates: Rates, steps: int) -> Course:
    return Course(steps, rates.lr, rates.last_lr, rates.warmup_steps, rates.schedule)


def fit_batches(
    ctx: StageContext,
    trainer: MegatronTrainer,
    batches: Callable[[int], Iterator[Batch]],
    optimizer: Optimizer,
    *,
    rate: Callable[[int], float],
    steps: int,
    heldout: Heldout | None = None,
) -> None:
    """Make the updates up to `steps`, from the stage's last checkpoint on, and write the model.

    `batches(n)` gives those of steps n, n + 1, …. StageStopped where SIGTERM came first; its step is saved.
    """
    trainer.reset_optimizer(optimizer)
    checkpoints = Checkpoints(ctx, trainer)
    done = checkpoints.restore()
    with _profiled(ctx, trainer) as stepper:
        done = fit(
            stepper,
            batches,
            steps=steps,
            rate=rate,
            log=ctx.metrics.log,
            progress=ctx.show,
            stopping=ctx.stopping,
            done=done,
            saver=Saver(checkpoints.save, ctx.job.resources.checkpoint_every_steps),
            heldout=heldout,
            mfu=_mfu(ctx, trainer),
        )
    if done.steps < steps:
        raise StageStopped(f"stopped after step {done.steps} of {steps}; run it again to go on from there")
    fitted: Path = ctx.scratch / "output"
    trainer.save(fitted)
    ctx.out.add_directory("model", fitted)
    ctx.summary.update(done.summary(), num_parameters=trainer.num_parameters)


def _mfu(ctx: StageContext, trainer: MegatronTrainer) -> Callable[[Sequence[Row], float], float] | None:
    """The share of the peak of all devices that a step reached; None where the peak is not given."""
    peak = ctx.job.resources.peak_tflops * ctx.job.resources.layout.world
    if not peak:
        return None
    return lambda rows, seconds: model_flops_utilisation(trainer.flops(rows), seconds, peak)


@contextmanager
def _profiled(ctx: StageContext, trainer: MegatronTrainer) -> Iterator[Stepper]:
    """The trainer, traced where the resources ask for it; the trace is part `profile` of the artifact."""
    if not ctx.job.resources.profile:
        yield trainer
        return
    folder: Path = ctx.scratch / "profile"
    with profiled(trainer, folder) as stepper:
        yield stepper
    if any(folder.iterdir()):
        ctx.out.add_directory("profile", folder)


def _data(
    ctx: StageContext, recipe: SupervisedRecipe, tokenizer: Any, kinds: Kinds, longer: str
) -> dict[str, RowFile]:
    shortest = min(phase.max_tokens for phase in recipe.all_phases())
    if longer == "split":
        return read_data(ctx, recipe, tokenizer, kinds, shape=partial(split, max_tokens=shortest))
    return read_data(ctx, recipe, tokenizer, kinds)


def _refuse(rows: dict[str, RowFile], recipe: SupervisedRecipe, longer: str, max_positions: int) -> None:
    """ValueError where a phase, the model or a microbatch cannot take a row it would meet."""
    for name, some in rows.items():
        taking: list[Phase] = [
            phase for phase in recipe.all_phases() if not phase.mixture or name in phase.mixture
        ]
        if not taking:
            raise ValueError(f"data set {name!r}: no phase's mixture names it; leave it out of the inputs")
        limits = [phase.max_tokens for phase in taking]
        limit = max(limits) if longer == "defer" else min(limits)
        refuse_longer(some.lengths, limit, where=f"data set {name!r}")
        refuse_longer(some.lengths, max_positions, where=f"data set {name!r}, for the model's positions")
        most = recipe.max_tokens_per_microbatch
        if max(some.lengths) - 1 > most:
            raise ValueError(
                f"data set {name!r}: a row has {max(some.lengths)} tokens and is never split; "
                f"raise max_tokens_per_microbatch={most}"
            )


def open_heldout(
    ctx: StageContext, recipe: FitRecipe, tokenizer: Any, kinds: Kinds, *, longest: int
) -> Heldout | None:
    """The rows of input `heldout`, where there is one; ValueError for one of more than `longest` tokens."""
    if HELDOUT not in ctx.inputs:
        return None
    rows = read_role(ctx, HELDOUT, tokenizer, kinds)
    limit = min(longest, recipe.max_tokens_per_microbatch + 1)  # a row's last token is only predicted
    refuse_longer(rows.lengths, limit, where=ctx.inputs[HELDOUT].uri)
    return Heldout([rows.row(index) for index in range(len(rows))], recipe.evaluate_every_steps)
