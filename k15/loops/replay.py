"""What an RL phase carries from round to round: groups and their trajectories, success rates, frontiers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from k15.records import End, SampleRequest, Segment, Trajectory, Verdict


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The k responses of one prompt, taken up in round `first_round`."""

    number: int  # its place among all groups taken: 0, 1, …
    prompt_id: str
    first_round: int
    trajectories: tuple[Trajectory, ...]

    @property
    def complete(self) -> bool:
        """Whether all k are finished, so that the group can be judged."""
        return all(trajectory.finished for trajectory in self.trajectories)

    @property
    def num_finished(self) -> int:
        """Responses that no later phase will continue."""
        return sum(trajectory.finished for trajectory in self.trajectories)


@dataclass(frozen=True, slots=True)
class JudgedGroup:
    """A finished group with a verdict for each response."""

    rollouts: RolloutGroup
    verdicts: tuple[Verdict, ...]
    finished_round: int
    uses: int = 0  # rounds it was trained on


@dataclass(frozen=True, slots=True)
class ReplayState:
    """Committed with each round, atomically with its weights (DESIGN.md, control plane and data plane)."""

    next_round: int = 0
    policy_version: int = 0  # of the weights the next round samples from
    groups_taken: int = 0
    frontiers: tuple[int, ...] = ()  # prompts taken of each curriculum band; of all prompts without one
    success: dict[str, tuple[int, int]] = field(default_factory=dict)  # prompt id → (correct, judged)
    open_groups: tuple[RolloutGroup, ...] = ()
    buffer: tuple[JudgedGroup, ...] = ()  # finished ones that may still be trained on, the oldest first
    pass_rates: tuple[float, ...] = ()  # of the last rounds, as many as the rule of no gain looks at
    best_pass_rate: float = 0.0  # the largest mean of as many successive rounds before them
    sampled_tokens: int = 0
    seconds: float = 0.0  # of the rounds played
    stopped: str = ""  # why the phase ended before its last round, if it did


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a trajectory may grow, in tokens, and over how many phases."""

    budget: int  # per phase
    max_response: int
    max_segments: int

    @property
    def most(self) -> int:
        """Tokens of a response that used up everything."""
        return min(self.max_response, self.budget * self.max_segments)


def requests(
    group: RolloutGroup,
    stored: Iterable[int],
    limits: Limits,
    *,
    temperature: float,
    seed: int,
    max_period: int,
) -> list[tuple[int, SampleRequest]]:
    """What to sample for a group in a phase, each with the sample of the group it is for.

    A request each, so that a response that ends makes room, and is stored, without its siblings. An
    unfinished one goes on from its own tokens. The `stored` samples have this phase's segment already.
    Sample j is drawn with `seed` + j.
    """
    done = set(stored)
    return [
        (
            trajectory.sample,
            SampleRequest(
                trajectory.prompt_token_ids,
                min(limits.budget, limits.max_response - len(trajectory.token_ids)),
                prefix=trajectory.token_ids,
                temperature=temperature,
                seed=seed + trajectory.sample,
                max_period=max_period,
            ),
        )
        for trajectory in group.trajectories
        if not trajectory.finished and trajectory.sample not in done
    ]


def extend(group: RolloutGroup, segments: Mapping[int, Segment], limits: Limits) -> RolloutGroup:
    """The group with a phase's segments by sample.

    A response that used up all it may have ends as cut by length. One that has had its last phase without
    that, because deadlines broke it off, is given up: its length says nothing about the policy.
    """
    ended = {}
    for sample, segment in segments.items():
        old = group.trajectories[sample]
        if segment.end is End.BUDGET:
            if len(old.token_ids) + len(segment.token_ids) >= limits.most:
                segment = replace(segment, end=End.LENGTH)
            elif len(old.segments) + 1 >= limits.max_segments:
                segment = replace(segment, end=End.GIVEN_UP)
        ended[sample] = segment
    return grow(group, ended)


def grow(group: RolloutGroup, segments: Mapping[int, Segment]) -> RolloutGroup:
    """The group with one more segment for some of its samples, as they are."""
    return replace(
        group,
        trajectories=tuple(
            replace(t, segments=(*t.segments, segments[t.sample])) if t.sample in segments else t
            for t in group.trajectories
        ),
    )


def give_up(group: RolloutGroup) -> RolloutGroup:
    """The group with its unfinished responses ended as given up."""
    return replace(
        group,
        trajectories=tuple(
            trajectory
            if trajectory.finished
            else replace(
                trajectory,
                segments=(*trajectory.segments[:-1], replace(trajectory.segments[-1], end=End.GIVEN_UP)),
            )
            for trajectory in group.trajectories
        ),
    )
