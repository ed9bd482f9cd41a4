"""What an RL phase carries from round to round: unfinished groups, success rates, the prompt frontier."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from k15.records import End, SampleRequest, Segment, Trajectory


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """The k responses of one prompt while some are unfinished."""

    prompt_id: str
    first_round: int
    trajectories: tuple[Trajectory, ...]

    @property
    def complete(self) -> bool:
        """Whether all k are finished, so that the group can be judged."""
        return all(trajectory.finished for trajectory in self.trajectories)


@dataclass(frozen=True, slots=True)
class ReplayState:
    """Committed with each round, atomically with its weights (DESIGN.md, control plane and data plane)."""

    next_round: int = 0
    frontier: int = 0  # prompts taken so far
    success: dict[str, tuple[int, int]] = field(default_factory=dict)  # prompt id → (correct, judged)
    open_groups: tuple[OpenGroup, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ReplayState":
        """Inverse of to_json; ValueError where the state is not one."""
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a replay state: {error}") from None


def requests(
    group: OpenGroup, *, budget: int, max_response: int, temperature: float, seed: int
) -> list[tuple[list[int], SampleRequest]]:
    """What to sample for a group, each with the positions in the group it serves.

    A fresh group is one request for all its samples; an unfinished response goes on from its own tokens.
    """
    first = group.trajectories[0]
    if all(not trajectory.segments for trajectory in group.trajectories):
        everyone = list(range(len(group.trajectories)))
        return [
            (
                everyone,
                SampleRequest(
                    first.prompt_token_ids,
                    min(budget, max_response),
                    num_samples=len(everyone),
                    temperature=temperature,
                    seed=seed,
                ),
            )
        ]
    asked = []
    for position, trajectory in enumerate(group.trajectories):
        if trajectory.finished:
            continue
        done = trajectory.token_ids
        request = SampleRequest(
            trajectory.prompt_token_ids,
            min(budget, max_response - len(done)),
            prefix=done,
            temperature=temperature,
            seed=seed + position,
        )
        asked.append(([position], request))
    return asked


def extend(
    group: OpenGroup,
    positions: Sequence[int],
    segments: Sequence[Segment],
    *,
    max_response: int,
    max_segments: int,
) -> OpenGroup:
    """The group with new segments; one that may not grow further ends as cut by length."""
    trajectories = list(group.trajectories)
    for position, segment in zip(positions, segments, strict=True):
        old = trajectories[position]
        total = len(old.token_ids) + len(segment.token_ids)
        spent = total >= max_response or len(old.segments) + 1 >= max_segments
        if segment.end is End.BUDGET and spent:
            segment = replace(segment, end=End.LENGTH)
        trajectories[position] = replace(old, segments=(*old.segments, segment))
    return replace(group, trajectories=tuple(trajectories))
