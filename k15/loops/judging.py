"""From finished groups to training groups: verdicts, rewards, rows, success counts."""

import math
from collections.abc import Callable, Mapping, Sequence

from k15.algo.reward import group_rewards
from k15.loops.replay import JudgedGroup, RolloutGroup
from k15.ports import Reward
from k15.recipes.rl import RlRecipe
from k15.records import End, Group, Prompt, Status, Trajectory, Verdict
from k15.records import Sequence as TrainingRow
from k15.rewards import judge_all, statement

MIN_JUDGED = 2  # a baseline needs another response
MAX_SHOWN = 200  # characters of a reference


def judge_group(
    group: RolloutGroup, prompt: Prompt, decode: Callable[[Sequence[int]], str], judge: Reward
) -> tuple[Verdict, ...]:
    """A verdict for every response; a truncated one is wrong, since it states no final answer.

    One that was given up is unjudged. Where none is correct, the judge must accept the reference itself:
    otherwise all are unjudged, for the judge cannot tell right from wrong here. (Tests alone, with no
    published program, are no answer that could be judged.)
    """
    ended = [trajectory for trajectory in group.trajectories if trajectory.segments[-1].end is End.STOP]
    judged = iter(judge_all(judge, [(prompt, decode(trajectory.token_ids)) for trajectory in ended]))
    verdicts = [_cut(trajectory) or next(judged) for trajectory in group.trajectories]
    if any(verdict.status is Status.CORRECT for verdict in verdicts):
        return tuple(verdicts)
    published = statement(prompt).published(prompt)
    if published is None or (own := judge(prompt, published)).status is Status.CORRECT:
        return tuple(verdicts)
    reason = f"no judge accepts the reference {prompt.reference[:MAX_SHOWN]!r}" + (
        f": {own.reason}" if own.reason else ""
    )
    return tuple(
        Verdict(Status.UNJUDGED, reason) if verdict.status is Status.WRONG else verdict
        for verdict in verdicts
    )


def _cut(trajectory: Trajectory) -> Verdict | None:
    """The verdict of one that did not end by itself."""
    end = trajectory.segments[-1].end
    if end is End.STOP:
        return None
    if end is End.GIVEN_UP:
        phases = len(trajectory.segments)
        return Verdict(Status.UNJUDGED, f"given up after {phases} phases, unfinished")
    return Verdict(Status.WRONG, f"ended by {end}")


def num_judged(verdicts: Sequence[Verdict]) -> int:
    """Responses with a score."""
    return sum(verdict.status is not Status.UNJUDGED for verdict in verdicts)


def training_group(recipe: RlRecipe, group: JudgedGroup, number: int, *, version: int) -> Group:
    """The judged responses with their rewards in round `number`; at least MIN_JUDGED must be.

    `version` is the policy's at hand: its own tokens alone carry the sampler's log-probs.
    """
    judged = judged_trajectories(group)
    scores = [verdict.score for verdict in group.verdicts if verdict.status is not Status.UNJUDGED]
    assert len(judged) >= MIN_JUDGED, group.rollouts.prompt_id
    weight = recipe.length_reward_weight if number >= recipe.length_reward_from_round else 0.0
    rewards = group_rewards(
        [len(trajectory.token_ids) for trajectory in judged],
        scores,
        length_weight=weight,
        repeated=[trajectory.segments[-1].end is End.REPEAT for trajectory in judged],
        repeat_weight=recipe.repeat_penalty,
    )
    only = version if recipe.loss_segments == "newest" else None
    rows = [training_row(trajectory, only=only) for trajectory in judged]
    sampled = tuple(
        logprobs_in_loss(trajectory, row, version) for trajectory, row in zip(judged, rows, strict=True)
    )
    return Group(group.rollouts.prompt_id, tuple(rows), tuple(rewards), sampled)


def judged_trajectories(group: JudgedGroup) -> list[Trajectory]:
    """Those with a score, in their order: a training group's rows are theirs."""
    return [
        trajectory
        for trajectory, verdict in zip(group.rollouts.trajectories, group.verdicts, strict=True)
        if verdict.status is not Status.UNJUDGED
    ]


def training_row(trajectory: Trajectory, *, only: int | None) -> TrainingRow:
    """Prompt and response; the loss on all response tokens, or on those that policy version `only` sampled.

    A row with nothing in the loss counts in its group's baseline, and has no gradient.
    """
    flags = [False] * len(trajectory.prompt_token_ids)
    for segment in trajectory.segments:
        flags += [only in (None, segment.policy_version)] * len(segment.token_ids)
    return TrainingRow(trajectory.prompt_token_ids + trajectory.token_ids, tuple(flags))


def logprobs_in_loss(trajectory: Trajectory, row: TrainingRow, version: int) -> tuple[float, ...]:
    """The sampler's log-probs of the tokens in the loss; NaN for those that an older policy sampled.

    RuntimeError where the sampler gave one that is not finite.
    """
    if not all(math.isfinite(value) for value in trajectory.logprobs):
        raise RuntimeError(f"prompt {trajectory.prompt_id}: the sampler gave a log-prob that is not finite")
    values = [
        value if segment.policy_version == version else math.nan
        for segment in trajectory.segments
        for value in segment.logprobs
    ]
    flags = row.in_loss[len(trajectory.prompt_token_ids) :]
    return tuple(value for value, flag in zip(values, flags, strict=True) if flag)


def tally(
    success: Mapping[str, tuple[int, int]], groups: Sequence[JudgedGroup]
) -> dict[str, tuple[int, int]]:
    """Success counts per prompt with this round's verdicts added; unjudged ones count for nothing."""
    counts = dict(success)
    for group in groups:
        correct, total = counts.get(group.rollouts.prompt_id, (0, 0))
        scores = [verdict.score for verdict in group.verdicts if verdict.status is not Status.UNJUDGED]
        counts[group.rollouts.prompt_id] = (correct + int(sum(scores)), total + len(scores))
    return counts
