"""RL rounds over a trainer and a sampler that stay up; every round commits to the store.

    python -m stages.rl --job s3://bucket/jobs/…json

Killed anywhere, the next run continues after the last committed round, with what was stored of the next.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from k15.engines.megatron.checkpoint import read_config
from k15.loops.prompts import check_prompts
from k15.loops.replay import ReplayState
from k15.loops.rl import Phase, run_phase, train_again
from k15.loops.rollout import Actors
from k15.recipes.rl import RlRecipe
from k15.records import Prompt
from k15.stage import StageContext, StageStopped, run_stage
from k15.store.journal import Journals
from k15.store.tables import prompts_from_table
from k15.tasks.format import prompt_token_ids, response_text
from k15.tasks.tokenizer import load_tokenizer
from stages.resume import Start, policy, starting_point
from stages.rewards import open_judge
from stages.rounds import WEIGHTS, RoundCommit
from stages.services import longest, policy_services

log = logging.getLogger("stages.rl")


def body(ctx: StageContext, recipe: RlRecipe) -> None:
    """Play the rounds that are missing, then commit the policy with the history of all rounds."""
    start = starting_point(ctx)
    tokenizer = load_tokenizer(start.model_dir)
    prompts, encoded, excluded = posed(ctx, recipe, start.model_dir, tokenizer)
    state = start.state
    with Journals(ctx.store, ctx.job.key) as journals:
        journals.clear(state.next_round - 1)
        if state.next_round < recipe.rounds and not state.stopped:
            state = play_missing_rounds(ctx, recipe, start, journals, prompts, encoded, tokenizer)
        if state.next_round < recipe.rounds and not state.stopped:
            raise StageStopped(
                f"stopped after round {state.next_round} of {recipe.rounds}; a rerun continues there"
            )
    journals.clear(state.next_round)  # nothing is written any more
    finish(ctx, state, excluded)


def posed(
    ctx: StageContext, recipe: RlRecipe, model_dir: Path, tokenizer: Any
) -> tuple[dict[str, Prompt], dict[str, tuple[int, ...]], list[dict[str, Any]]]:
    """The prompts that fit the model's context with a whole response, their tokens, and those left out.

    ValueError where none fits.
    """
    artifact = ctx.inputs["prompts"]
    room = int(read_config(model_dir)["max_position_embeddings"]) - recipe.max_response_tokens
    prompts, encoded, excluded = {}, {}, []
    for prompt in prompts_from_table(artifact.read_table("prompts.parquet"), artifact.uri):
        tokens = tuple(prompt_token_ids(tokenizer, prompt.text))
        if len(tokens) > room:
            excluded.append({"prompt_id": prompt.id, "tokens": len(tokens), "reason": "longer than context"})
        else:
            prompts[prompt.id], encoded[prompt.id] = prompt, tokens
    if not prompts:
        raise ValueError(
            f"{artifact.uri}: none of {len(excluded)} prompts fits: the model's context leaves {room} tokens"
            f" beside max_response_tokens = {recipe.max_response_tokens}; lower that or activate a longer one"
        )
    if excluded:
        log.warning("prompts_excluded=%d reason='longer than the %d tokens left'", len(excluded), room)
    check_prompts(recipe, prompts)
    return prompts, encoded, excluded


def play_missing_rounds(
    ctx: StageContext,
    recipe: RlRecipe,
    start: Start,
    journals: Journals,
    prompts: Mapping[str, Prompt],
    encoded: Mapping[str, tuple[int, ...]],
    tokenizer: Any,
) -> ReplayState:
    """The rounds after `start`, with the services up for as long as they last."""
    max_tokens = longest(list(encoded.values())) + recipe.max_response_tokens
    with (
        open_judge(prompts.values(), ctx.job.resources, ctx.scratch) as judge,
        policy_services(ctx, recipe, start.model_dir, version=start.version, max_tokens=max_tokens) as (
            trainer,
            sampler,
        ),
    ):
        actors = Actors(recipe, prompts, sampler, lambda ids: response_text(tokenizer, ids), judge)
        phase = Phase(actors, trainer, lambda prompt: encoded[prompt.id], journals.begin)
        if start.again or not sampler.replicas:  # others than ours take their first weights from the trainer
            train_again(phase, start.again, start.state.policy_version)
        commit = RoundCommit(
            ctx,
            trainer,
            journals,
            rounds=recipe.rounds,
            every=ctx.job.resources.checkpoint_every_rounds,
            unsaved=bool(start.again),
        )
        with commit:
            return run_phase(phase, start.state, commit=commit, stopping=ctx.stopping)


def finish(ctx: StageContext, state: ReplayState, excluded: Sequence[Mapping[str, Any]]) -> None:
    """The final artifact: the policy after all rounds, every round's figures and examples."""
    rounds = ctx.store.rounds(ctx.job.key)
    ctx.out.add_directory(WEIGHTS, policy(ctx, rounds))
    rows = [committed.state["row"] for committed in rounds]
    examples = [{"round": c.number, **example} for c in rounds for example in c.state["examples"]]
    for name, values in (("rounds", rows), ("trajectories", examples), ("excluded", excluded)):
        ctx.out.write_bytes(f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in values).encode())
    ctx.out.write_json("end.json", {"rounds": len(rows), "reason": state.stopped or "all rounds were played"})
    ctx.summary |= {
        "rounds": len(rows),
        "stopped_early": float(bool(state.stopped)),
        "prompts_excluded": len(excluded),
        "sampled_tokens": state.sampled_tokens,
        "num_updates": sum(row["num_updates"] for row in rows),
        "pass_rate_first": rows[0]["pass_rate"],
        "pass_rate_last": rows[-1]["pass_rate"],
        "tokens_first": rows[0]["tokens_mean"],
        "tokens_last": rows[-1]["tokens_mean"],
        "orchestration_s": median(row["orchestration_s"] for row in rows),
        "orchestration_share": median(row["orchestration_s"] / row["wall_s"] for row in rows),
    }


def first_or_follow(environment: Mapping[str, str]) -> bool:
    """Ranks that torchrun started: the first runs the stage, and its trainer meets the others, who follow."""
    if environment["RANK"] == "0":
        return True
    # Megatron takes seconds to import, and the stage itself needs none of it.
    from k15.engines.megatron import ranks  # noqa: PLC0415

    return ranks.meet(environment)


if __name__ == "__main__":
    run_stage(RlRecipe, body, meet=first_or_follow)
