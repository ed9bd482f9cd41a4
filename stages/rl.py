"""RL rounds over a trainer and a sampler that stay up; every round commits to the store.

    python -m stages.rl --job s3://bucket/jobs/…json

Killed anywhere, the next run continues after the last committed round.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from k15.loops.replay import ReplayState
from k15.loops.rl import Phase, run_phase
from k15.recipes.rl import RlRecipe
from k15.rewards import judge
from k15.stage import StageContext, StageStopped, run_stage
from k15.store.manifest import RoundManifest
from k15.store.tables import prompts_from_table
from k15.tasks.format import prompt_token_ids, response_text
from k15.tasks.tokenizer import load_tokenizer
from stages.rounds import WEIGHTS, RoundCommit, newest_weights
from stages.services import longest, policy_services

log = logging.getLogger("stages.rl")


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
    tokenizer = load_tokenizer(model_dir)
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
        with RoundCommit(ctx, trainer, recipe.rounds) as commit:
            return run_phase(phase, state, commit=commit, stopping=ctx.stopping)


def starting_point(ctx: StageContext) -> tuple[Path, ReplayState]:
    """Weights and state of the last committed round, or the input model and an empty state."""
    rounds = ctx.store.rounds(ctx.job.key)
    model_dir = policy(ctx, rounds)
    if not rounds:
        return model_dir, ReplayState()
    log.info("resume key=%s after_round=%d", ctx.job.key[:12], rounds[-1].number)
    return model_dir, ReplayState.from_json(rounds[-1].state["replay"])


def policy(ctx: StageContext, rounds: Sequence[RoundManifest]) -> Path:
    """A directory of the policy after `rounds`: the input model where none of them made an update."""
    directory = ctx.scratch / f"policy-{len(rounds)}"
    newest = newest_weights(rounds)
    if newest is None:
        return ctx.inputs["model"].download(directory)
    return ctx.store.open_round(newest).download(directory, WEIGHTS) / WEIGHTS


def finish(ctx: StageContext) -> None:
    """The final artifact: the policy after all rounds, every round's figures and examples."""
    rounds = ctx.store.rounds(ctx.job.key)
    ctx.out.add_directory(WEIGHTS, policy(ctx, rounds))
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
