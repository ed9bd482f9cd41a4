"""A rollout phase (METHOD.md §5): budgets, a deadline, what an earlier try stored; judged as answers come."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from k15.loops.clock import Clock
from k15.loops.history import segment_rows
from k15.loops.judging import judge_group
from k15.loops.replay import Limits, RolloutGroup, extend, give_up, grow, requests
from k15.loops.seeds import response_seed
from k15.ports import Reward, Sampler
from k15.recipes.rl import RlRecipe
from k15.records import End, Prompt, SampleRequest, SampleStats, Segment, Verdict
from k15.store.rollouts import SegmentRow

log = logging.getLogger(__name__)

Asked = tuple[int, int, SampleRequest]  # place of the group, its sample, what is asked for it
MAX_TRIES = 6  # processes that may begin one phase: then it ends with what they stored


class Journal(Protocol):
    """What is stored of a phase under way, so that a process that is killed loses no stored token."""

    tries: int  # processes that began this phase before
    asked_again: int  # responses that those after the first asked for: the one before had not stored them
    moved_before: int  # responses that in those, too, a sampler was lost with, and another began again
    stored: Mapping[tuple[int, int], Segment]  # by (group, sample)

    def ask(self, num_responses: int) -> None:
        """Store how many responses are about to be sampled: before the first token is."""

    def moved(self, num_responses: int) -> None:
        """Store that so many more responses were begun again by another sampler."""

    def add(self, rows: Sequence[SegmentRow]) -> None:
        """Store segments, soon; returns at once."""


@dataclass(frozen=True)
class Actors:
    """Who takes part in a phase: the same from round to round."""

    recipe: RlRecipe
    prompts: Mapping[str, Prompt]
    sampler: Sampler
    decode: Callable[[Sequence[int]], str]
    judge: Reward


@dataclass(frozen=True, slots=True)
class Rolled:
    """One group after a phase: with verdicts where it finished."""

    group: RolloutGroup
    new: tuple[int, ...]  # the samples with a segment of this phase
    verdicts: tuple[Verdict, ...] = ()


class Rollout:
    """One phase: every group gets a segment for each of its unfinished responses."""

    def __init__(self, actors: Actors, groups: Sequence[RolloutGroup], number: int, journal: Journal) -> None:
        self._actors, self._number, self._journal = actors, number, journal
        recipe = actors.recipe
        self._limits = Limits(recipe.phase_token_budget, recipe.max_response_tokens, recipe.max_segments)
        self._groups = list(groups)
        self._new = [_stored(group, journal.stored) for group in groups]
        self._rolled: dict[int, Rolled] = {}
        self._moved = 0
        self.sampling = SampleStats()  # what the sampler did; nothing where all was stored
        self.asked_again = 0  # responses that earlier tries may have begun and had not stored

    def run(self, clock: Clock) -> list[Rolled]:
        """The groups in their order; a group is judged as soon as it is complete, while others are sampled.

        RuntimeError where the sampler leaves a request without an answer.
        """
        asked = self._asked()
        left = Counter(index for index, _, _ in asked)
        for index in range(len(self._groups)):
            if not left[index]:
                self._settle(index)
        if asked:
            self._sample(asked, left, clock)
        with clock("reward"):
            return [self._closed(self._rolled[index]) for index in range(len(self._groups))]

    def _sample(self, asked: Sequence[Asked], left: Counter[int], clock: Clock) -> None:
        """Take every answer; `left` counts those a group still waits for."""
        answered, begin = 0, time.perf_counter()
        with clock("rollout"):
            answers = self._actors.sampler.sample(
                [request for _, _, request in asked], deadline_s=self._actors.recipe.phase_deadline_s
            )
        while True:
            with clock("rollout"):
                answer = next(answers, None)
            if answer is None:
                break
            clock.seconds["sampling_s"] = time.perf_counter() - begin
            self._note_moved()
            with clock("reward"):
                index, sample, _ = asked[answer[0]]
                (segment,) = answer[1]
                self._take(index, sample, segment)
                left[index] -= 1
                if not left[index]:
                    self._settle(index)
            answered += 1
        if answered != len(asked):
            raise RuntimeError(f"the sampler answered {answered} of {len(asked)} requests")
        self.sampling = self._actors.sampler.stats
        if (turn := self.sampling.turn) is not None:
            clock.move("rollout", asdict(turn))
            clock.seconds["sampling_s"] -= turn.before

    def _note_moved(self) -> None:
        """A process that is killed later in the phase has told of what its lost samplers had begun."""
        moved = self._actors.sampler.stats.num_moved
        if moved > self._moved:
            self._journal.moved(moved - self._moved)
            self._moved = moved

    def _asked(self) -> list[Asked]:
        """What the sampler is to answer."""
        recipe, asked = self._actors.recipe, []
        for index, group in enumerate(self._groups):
            seed = response_seed(recipe.seed, group.number * recipe.samples_per_prompt)
            for sample, request in requests(
                group,
                self._new[index],
                self._limits,
                temperature=recipe.temperature,
                seed=seed,
                max_period=recipe.repeat_max_period,
            ):
                asked.append((index, sample, request))
        if self._journal.tries:
            self.asked_again = self._journal.asked_again + len(asked)
        self._journal.ask(len(asked))
        if self._journal.tries < MAX_TRIES:
            return asked
        log.warning("phase=%d tries=%d left=%d", self._number, self._journal.tries, len(asked))
        for index, sample, _ in asked:
            self._take(index, sample, Segment(self._actors.sampler.version, (), (), End.BUDGET))
        return []

    def _take(self, index: int, sample: int, segment: Segment) -> None:
        self._new[index][sample] = segment
        grown = grow(self._groups[index], {sample: segment})
        self._journal.add(segment_rows(grown, [sample], self._number, self._actors.prompts))

    def _settle(self, index: int) -> None:
        """Every answer of a group is there: judge it where it is complete."""
        group = extend(self._groups[index], self._new[index], self._limits)
        rolled = Rolled(group, tuple(sorted(self._new[index])))
        self._rolled[index] = self._judged(rolled) if group.complete else rolled

    def _closed(self, rolled: Rolled) -> Rolled:
        """At the phase's end: a group with enough finished responses gives its stragglers up."""
        enough = self._actors.recipe.min_finished
        if rolled.group.complete or not enough or rolled.group.num_finished < enough:
            return rolled
        return self._judged(replace(rolled, group=give_up(rolled.group)))

    def _judged(self, rolled: Rolled) -> Rolled:
        prompt = self._actors.prompts[rolled.group.prompt_id]
        verdicts = judge_group(rolled.group, prompt, self._actors.decode, self._actors.judge)
        return replace(rolled, verdicts=verdicts)


def _stored(group: RolloutGroup, stored: Mapping[tuple[int, int], Segment]) -> dict[int, Segment]:
    """What an earlier try of the phase stored of a group, by sample."""
    samples = range(len(group.trajectories))
    return {sample: stored[group.number, sample] for sample in samples if (group.number, sample) in stored}
