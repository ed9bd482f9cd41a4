"""The mismatch gate: trainer and sampler log-probs of the same fresh tokens, before they are trained on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from k15.loops.rollout import Rolled
from k15.ports import Trainer
from k15.records import Sequence as Row
from k15.records import Trajectory

PROBED = 4  # responses of a round, besides those in its update: a round without an update is checked too


@dataclass(frozen=True, slots=True)
class Compared:
    """|log p_trainer − log p_sampler| over some tokens of one policy version."""

    tokens: int = 0
    mean: float = 0.0
    largest: float = 0.0

    def and_also(self, other: Self) -> "Compared":
        """Over both."""
        tokens = self.tokens + other.tokens
        total = self.mean * self.tokens + other.mean * other.tokens
        return Compared(tokens, total / max(1, tokens), max(self.largest, other.largest))


def compare(trainer: Trainer, rolled: Sequence[Rolled]) -> Compared:
    """Score a few of the phase's new segments with the trainer, which has the weights they came from."""
    chosen = [
        one.group.trajectories[next(n for n in one.new if one.group.trajectories[n].segments[-1].token_ids)]
        for one in rolled
        if any(one.group.trajectories[n].segments[-1].token_ids for n in one.new)
    ][:PROBED]
    if not chosen:
        return Compared()
    theirs = [trajectory.segments[-1].logprobs for trajectory in chosen]
    ours = trainer.logprobs([_row(trajectory) for trajectory in chosen])
    differences = [
        abs(mine - other)
        for mine_row, other_row in zip(ours, theirs, strict=True)
        for mine, other in zip(mine_row, other_row, strict=True)
    ]
    return Compared(len(differences), math.fsum(differences) / len(differences), max(differences))


def check(compared: Compared, limit: float, number: int) -> None:
    """RuntimeError where trainer and sampler disagree on the log-probs of the same tokens."""
    if not compared.mean <= limit:
        raise RuntimeError(
            f"round {number}: trainer and sampler log-probs differ by {compared.mean:.2e} on average "
            f"(largest {compared.largest:.2e}, {compared.tokens} tokens), above mismatch_limit = {limit:g}: "
            f"eq. 3's ratio would be wrong. The sampler may hold other weights than the trainer, or its "
            f"precision is too low; raise the limit only with a measured reason."
        )


def _row(trajectory: Trajectory) -> Row:
    """The whole response, its newest segment alone in the loss."""
    new = len(trajectory.segments[-1].token_ids)
    tokens = trajectory.prompt_token_ids + trajectory.token_ids
    return Row(tokens, (False,) * (len(tokens) - new) + (True,) * new)
