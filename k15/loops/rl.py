"""The RL phase (METHOD.md §1, §5): rounds of roll out → reward → train → publish → commit."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

from k15.algo.sampling import priorities, prioritized, uniform
from k15.loops.judging import judge_group, tally, training_group
from k15.loops.replay import OpenGroup, ReplayState, extend, requests
from k15.ports import Reward, Sampler, Trainer
from k15.recipes.rl import RlRecipe
from k15.records import Group, Prompt, Status, Trajectory, UpdateStats, Verdict

log = logging.getLogger(__name__)

SAMPLE_DEADLINE_S = 3600.0
TRANSFER_DEADLINE_S = 600.0
EXAMPLES_PER_ROUND = 2

Row = dict[str, float]


class Commit(Protocol):
    """Makes a round durable; until it returns, the round has not happened."""

    def __call__(
        self, state: ReplayState, row: Row, examples: list[dict[str, Any]], clock: "Clock"
    ) -> None: ...


@dataclass(frozen=True)
class Phase:
    """Everything a round needs that does not change from round to round."""

    recipe: RlRecipe
    prompts: Mapping[str, Prompt]
    trainer: Trainer
    sampler: Sampler
    encode: Callable[[Prompt], tuple[int, ...]]
    decode: Callable[[Sequence[int]], str]
    judge: Reward


@dataclass
class Clock:
    """Wall seconds of a round by what they were spent on."""

    started: float = field(default_factory=time.perf_counter)
    seconds: Row = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[f"{name}_s"] = self.seconds.get(f"{name}_s", 0.0) + time.perf_counter() - begin

    def read(self) -> Row:
        """Seconds so far, with the whole round's as wall_s."""
        return {**self.seconds, "wall_s": time.perf_counter() - self.started}


def run_phase(
    phase: Phase, state: ReplayState, *, commit: Commit, stopping: Callable[[], bool]
) -> ReplayState:
    """Play the rounds `state` has not seen; returns the state of the last committed one."""
    while state.next_round < phase.recipe.rounds and not stopping():
        clock = Clock()
        state, row, examples = play_round(phase, state, clock)
        commit(state, row, examples, clock)
    return state


def play_round(
    phase: Phase, state: ReplayState, clock: Clock
) -> tuple[ReplayState, Row, list[dict[str, Any]]]:
    """One round: the state after it, its figures, and a few of its trajectories."""
    recipe, number = phase.recipe, state.next_round
    with clock("rollout"):
        groups, frontier = take_groups(phase, state)
        groups = roll_out(phase, groups, number)
    complete = [group for group in groups if group.complete]
    still_open = tuple(group for group in groups if not group.complete)
    with clock("reward"):
        verdicts = [
            judge_group(group, phase.prompts[group.prompt_id], phase.decode, phase.judge)
            for group in complete
        ]
        version = phase.sampler.version
        groups_made = [
            training_group(recipe, *pair, number, version=version)
            for pair in zip(complete, verdicts, strict=True)
        ]
        training = [group for group in groups_made if group is not None]
    stats = UpdateStats(0, 0.0, 0.0, 0, 0.0, 0.0, 0.0)
    if training:
        with clock("train"):
            stats = phase.trainer.policy_update(
                training, settings=recipe.update, lr=learning_rate(recipe, number)
            )
        check_mismatch(stats, recipe.mismatch_limit, number)
        with clock("publish"):
            ticket = phase.trainer.publish(number + 1, deadline_s=TRANSFER_DEADLINE_S)
        with clock("update"):
            phase.sampler.update(ticket, deadline_s=TRANSFER_DEADLINE_S)
    after = ReplayState(number + 1, frontier, tally(state.success, complete, verdicts), still_open)
    row = figures(number, complete, verdicts, training, still_open, stats)
    return after, row, examples_of(phase, complete, verdicts)


def take_groups(phase: Phase, state: ReplayState) -> tuple[list[OpenGroup], int]:
    """Unfinished groups first, then fresh prompts up to the round's size; and the new frontier."""
    recipe, number = phase.recipe, state.next_round
    carried = list(state.open_groups)
    wanted = max(0, recipe.prompts_per_round - len(carried))
    waiting = {group.prompt_id for group in carried}
    ids = list(phase.prompts)
    if recipe.sampler == "uniform":
        positions = uniform(len(ids), start=state.frontier, count=wanted, seed=recipe.seed)
        taken = wanted
    else:
        free = [i for i, prompt_id in enumerate(ids) if prompt_id not in waiting]
        weights = priorities(
            [ids[i] for i in free], state.success, floor=recipe.priority_floor, prior=recipe.priority_prior
        )
        chosen = prioritized(weights, count=min(wanted, len(free)), seed=f"{recipe.seed}/{number}")
        positions, taken = [free[i] for i in chosen], len(chosen)
    fresh = []
    for position in positions:
        tokens = phase.encode(phase.prompts[ids[position]])
        empty = tuple(Trajectory(ids[position], k, tokens) for k in range(recipe.samples_per_prompt))
        fresh.append(OpenGroup(ids[position], number, empty))
    return carried + fresh, state.frontier + taken


def roll_out(phase: Phase, groups: list[OpenGroup], number: int) -> list[OpenGroup]:
    """Every group with this phase's segments: at most phase_token_budget tokens each (METHOD.md §5)."""
    recipe = phase.recipe
    asked = []
    for index, group in enumerate(groups):
        seed = (recipe.seed * 1_000_003 + number) * 100_003 + index * recipe.samples_per_prompt
        for positions, request in requests(
            group,
            budget=recipe.phase_token_budget,
            max_response=recipe.max_response_tokens,
            temperature=recipe.temperature,
            seed=seed % 2**31,
        ):
            asked.append((index, positions, request))
    answers = phase.sampler.sample([request for _, _, request in asked], deadline_s=SAMPLE_DEADLINE_S)
    extended = list(groups)
    for which, segments in answers:
        index, positions, _ = asked[which]
        extended[index] = extend(
            extended[index],
            positions,
            segments,
            max_response=recipe.max_response_tokens,
            max_segments=recipe.max_segments,
        )
    return extended


def learning_rate(recipe: RlRecipe, number: int) -> float:
    """The round's rate: linear warm-up over lr_warmup_rounds, then constant."""
    return recipe.update.lr * min(1.0, (number + 1) / max(1, recipe.lr_warmup_rounds))


def check_mismatch(stats: UpdateStats, limit: float, number: int) -> None:
    """RuntimeError where trainer and sampler disagree on the log-probs of the same tokens."""
    if not stats.mismatch_mean <= limit:
        raise RuntimeError(
            f"round {number}: trainer and sampler log-probs differ by {stats.mismatch_mean:.2e} on average "
            f"(largest {stats.mismatch_max:.2e}), above mismatch_limit = {limit:g}: eq. 3's ratio would be "
            f"wrong. The sampler may hold other weights than the trainer, or its precision is too low; raise "
            f"the limit only with a measured reason."
        )


def figures(
    number: int,
    complete: Sequence[OpenGroup],
    verdicts: Sequence[Sequence[Verdict]],
    training: Sequence[Group],
    still_open: Sequence[OpenGroup],
    stats: UpdateStats,
) -> Row:
    """A round's row in rounds.jsonl (seconds are added by the clock)."""
    judged = [verdict for group in verdicts for verdict in group]
    scores = [verdict.score for verdict in judged if verdict.status is not Status.UNJUDGED]
    lengths = [len(trajectory.token_ids) for group in complete for trajectory in group.trajectories]
    rewards = [reward for group in training for reward in group.rewards]
    mixed = sum(len(set(group.rewards)) > 1 for group in training)
    return {
        "round": number,
        "reward": fmean(rewards) if rewards else 0.0,
        "pass_rate": fmean(scores) if scores else 0.0,
        "tokens_mean": fmean(lengths) if lengths else 0.0,
        "num_groups": len(training),
        "num_mixed_groups": mixed,
        "num_open_groups": len(still_open),
        "unjudged": len(judged) - len(scores),
        "num_updates": stats.num_updates,
        "loss": stats.loss,
        "gradient_norm": stats.gradient_norm,
        "train_tokens": stats.num_tokens,
        "mismatch_mean": stats.mismatch_mean,
        "mismatch_max": stats.mismatch_max,
    }


def examples_of(
    phase: Phase, complete: Sequence[OpenGroup], verdicts: Sequence[Sequence[Verdict]]
) -> list[dict[str, Any]]:
    """A few responses of the round, as people read them."""
    shown = []
    for group, judged in list(zip(complete, verdicts, strict=True))[:EXAMPLES_PER_ROUND]:
        prompt, trajectory, verdict = phase.prompts[group.prompt_id], group.trajectories[0], judged[0]
        shown.append(
            {
                "prompt_id": prompt.id,
                "prompt": prompt.text,
                "reference": prompt.reference,
                "response": phase.decode(trajectory.token_ids),
                "status": str(verdict.status),
                "tokens": len(trajectory.token_ids),
                "segments": [
                    {"policy_version": s.policy_version, "tokens": len(s.token_ids), "end": str(s.end)}
                    for s in trajectory.segments
                ],
            }
        )
    return shown
