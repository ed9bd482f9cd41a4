"""RL rounds over a trainer and a sampler that stay up; every round commits to the store.

    python -m stages.rl --job s3://bucket/jobs/…json

Killed anywhere, the next run continues after the last committed round.
"""

import json
import logging
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from transformers import AutoTokenizer

from k15.loops.replay import ReplayState
from k15.loops.rl import Clock, Phase, Row, run_phase
from k15.ports import Trainer
from k15.recipes.rl import RlRecipe
from k15.rewards import judge
from k15.stage import StageContext, StageStopped, run_stage
from k15.store.tables import prompts_from_table
from k15.tasks.format import prompt_token_ids, response_text
from stages.services import longest, policy_services

log = logging.getLogger("stages.rl")
COMPUTE = ("rollout_s", "reward_s", "train_s")


class RoundCommit:
    """Commits a round: weights, replay state, figures and examples become visible together or not at all."""

    def __init__(self, ctx: StageContext, trainer: Trainer, rounds: int) -> None:
        self._ctx, self._trainer, self._rounds = ctx, trainer, rounds

    def __call__(self, state: ReplayState, row: Row, examples: list[dict[str, Any]], clock: Clock) -> None:
        ctx, number = self._ctx, int(row["round"])
        with clock("commit"):
            weights = ctx.scratch / f"round-{number}"
            self._trainer.save(weights)
            attempt = ctx.store.begin(ctx.job.key)
            attempt.add_directory("model", weights)
            shutil.rmtree(weights)
            ctx.lease.check()
        row |= clock.read()
        row["orchestration_s"] = row["wall_s"] - sum(row.get(name, 0.0) for name in COMPUTE)
        content = {"replay": state.to_json(), "row": row, "examples": examples}
        if not ctx.store.commit_round(ctx.job.key, number, attempt, content):
            raise RuntimeError(f"round {number} was committed by another writer; this one lost its lease")
        ctx.metrics.log(number, **row)
        ctx.progress(number + 1, self._rounds, "rounds")
        log.info(
            "round=%d pass_rate=%.3f tokens=%.1f reward=%.3f wall_s=%.2f orchestration_s=%.2f mismatch=%.1e",
            *(
                row[name]
                for name in ("round", "pass_rate", "tokens_mean", "reward", "wall_s", "orchestration_s")
            ),
            row["mismatch_mean"],
        )


def body(ctx: StageContext, recipe: RlRecipe) -> None:
    """Play the rounds that are missing, then commit the policy with the history of all rounds."""
    model_dir, state = starting_point(ctx)
    if state.next_round < recipe.rounds:
        state = play_missing_rounds(ctx, recipe, model_dir, state)
    if state.next_round < recipe.rounds:
        raise StageStopped(
            f"stopped after round {state.next_round} of {recipe.rounds}; a rerun continues there"
        )
    finish(ctx)


def play_missing_rounds(
    ctx: StageContext, recipe: RlRecipe, model_dir: Path, state: ReplayState
) -> ReplayState:
    """The rounds after `state`, with the services up for as long as they last."""
    artifact = ctx.inputs["prompts"]
    prompts = {p.id: p for p in prompts_from_table(artifact.read_table("prompts.parquet"), artifact.uri)}
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    encoded = {p.id: tuple(prompt_token_ids(tokenizer, p.text)) for p in prompts.values()}
    max_tokens = longest(list(encoded.values())) + recipe.max_response_tokens
    with policy_services(ctx, recipe, model_dir, version=state.next_round, max_tokens=max_tokens) as (
        trainer,
        sampler,
    ):
        phase = Phase(
            recipe,
            prompts,
            trainer,
            sampler,
            lambda prompt: encoded[prompt.id],
            lambda ids: response_text(tokenizer, ids),
            judge,
        )
        commit = RoundCommit(ctx, trainer, recipe.rounds)
        return run_phase(phase, state, commit=commit, stopping=ctx.stopping)


def starting_point(ctx: StageContext) -> tuple[Path, ReplayState]:
    """Weights and state of the last committed round, or the input model and an empty state."""
    directory = ctx.scratch / "start"
    last = ctx.store.last_round(ctx.job.key)
    if last is None:
        return ctx.inputs["model"].download(directory), ReplayState()
    log.info("resume key=%s after_round=%d", ctx.job.key[:12], last.number)
    ctx.store.open_round(last).download(directory, "model")
    return directory / "model", ReplayState.from_json(last.state["replay"])


def finish(ctx: StageContext) -> None:
    """The final artifact: the last round's weights, every round's figures and examples."""
    rounds = ctx.store.rounds(ctx.job.key)
    final = ctx.store.open_round(rounds[-1]).download(ctx.scratch / "final", "model")
    ctx.out.add_directory("model", final / "model")
    rows = [committed.state["row"] for committed in rounds]
    ctx.out.write_bytes("rounds.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    examples = [{"round": c.number, **example} for c in rounds for example in c.state["examples"]]
    ctx.out.write_bytes("trajectories.jsonl", "".join(json.dumps(row) + "\n" for row in examples).encode())
    ctx.summary |= {
        "rounds": len(rows),
        "num_updates": sum(row["num_updates"] for row in rows),
        "pass_rate_first": rows[0]["pass_rate"],
        "pass_rate_last": rows[-1]["pass_rate"],
        "tokens_first": rows[0]["tokens_mean"],
        "tokens_last": rows[-1]["tokens_mean"],
        "orchestration_s": median(row["orchestration_s"] for row in rows),
        "orchestration_share": median(row["orchestration_s"] / row["wall_s"] for row in rows),
    }


if __name__ == "__main__":
    run_stage(RlRecipe, body)
