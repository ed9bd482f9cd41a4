"""From finished groups to training groups: verdicts, rewards, rows, success counts."""

import math
from collections.abc import Callable, Mapping, Sequence

from k15.algo.reward import group_rewards
from k15.loops.replay import OpenGroup
from k15.ports import Reward
from k15.recipes.rl import RlRecipe
from k15.records import End, Group, Prompt, Status, Trajectory, Verdict
from k15.records import Sequence as TrainingRow


def judge_group(
    group: OpenGroup, prompt: Prompt, decode: Callable[[Sequence[int]], str], judge: Reward
) -> list[Verdict]:
    """A verdict for every response; a truncated one is wrong, since it states no final answer."""
    return [
        judge(prompt, decode(trajectory.token_ids))
        if trajectory.segments[-1].end is End.STOP
        else Verdict(Status.WRONG, reason=f"ended by {trajectory.segments[-1].end}")
        for trajectory in group.trajectories
    ]


def training_group(
    recipe: RlRecipe, group: OpenGroup, verdicts: Sequence[Verdict], number: int, *, version: int
) -> Group | None:
    """The judged responses with their rewards; None where fewer than two were judged (no baseline).

    `version` is the policy's at hand: its own tokens alone carry the sampler's log-probs.
    """
    judged = [
        (trajectory, verdict.score)
        for trajectory, verdict in zip(group.trajectories, verdicts, strict=True)
        if verdict.status is not Status.UNJUDGED
    ]
    if len(judged) < 2:
        return None
    weight = recipe.length_reward_weight if number >= recipe.length_reward_from_round else 0.0
    rewards = group_rewards(
        [len(trajectory.token_ids) for trajectory, _ in judged],
        [score for _, score in judged],
        length_weight=weight,
    )
    rows = [
        training_row(trajectory, newest_only=recipe.loss_segments == "newest") for trajectory, _ in judged
    ]
    sampled = tuple(
        logprobs_in_loss(trajectory, row, version) for (trajectory, _), row in zip(judged, rows, strict=True)
    )
    return Group(group.prompt_id, tuple(rows), tuple(rewards), sampled)


def training_row(trajectory: Trajectory, *, newest_only: bool) -> TrainingRow:
    """Prompt and response; the loss on all response tokens, or on the newest segment's only."""
    flags = [False] * len(trajectory.prompt_token_ids)
    last = len(trajectory.segments) - 1
    for index, segment in enumerate(trajectory.segments):
        flags += [index == last or not newest_only] * len(segment.token_ids)
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
    success: Mapping[str, tuple[int, int]], groups: Sequence[OpenGroup], verdicts: Sequence[Sequence[Verdict]]
) -> dict[str, tuple[int, int]]:
    """Success counts per prompt with this round's verdicts added; unjudged ones count for nothing."""
    counts = dict(success)
    for group, judged in zip(groups, verdicts, strict=True):
        correct, total = counts.get(group.prompt_id, (0, 0))
        scores = [verdict.score for verdict in judged if verdict.status is not Status.UNJUDGED]
        counts[group.prompt_id] = (correct + int(sum(scores)), total + len(scores))
    return counts
