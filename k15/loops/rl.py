"""The RL phase (METHOD.md §1, §5): rounds of roll out → reward → train → publish → commit."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from k15.loops import gate
from k15.loops.buffer import draw
from k15.loops.clock import Clock
from k15.loops.history import Played
from k15.loops.judging import MIN_JUDGED, num_judged, training_group
from k15.loops.prompts import take_groups
from k15.loops.record import Made, compared, lost_tokens, recorded, round_figures, state_after
from k15.loops.replay import JudgedGroup, ReplayState
from k15.loops.rollout import Actors, Journal, Rollout
from k15.ports import Trainer
from k15.recipes.rl import RlRecipe
from k15.records import Group, Prompt, UpdateStats

log = logging.getLogger(__name__)

TRANSFER_DEADLINE_S = 600.0
NO_UPDATE = UpdateStats(0, 0.0, 0.0, 0, 0.0, 0.0, 0.0)


class Commit(Protocol):
    """Makes a round durable; until it is, the round has not happened."""

    def __call__(self, played: Played, clock: Clock) -> None: ...


@dataclass(frozen=True)
class Phase:
    """Everything a round needs that does not change from round to round."""

    actors: Actors
    trainer: Trainer
    encode: Callable[[Prompt], tuple[int, ...]]
    journal: Callable[[int], Journal]  # of a round

    @property
    def recipe(self) -> RlRecipe:
        """The stage's."""
        return self.actors.recipe


def run_phase(
    phase: Phase, state: ReplayState, *, commit: Commit, stopping: Callable[[], bool]
) -> ReplayState:
    """Play the rounds `state` has not seen; returns the state of the last one."""
    while state.next_round < phase.recipe.rounds and not state.stopped and not stopping():
        clock = Clock()
        played = play_round(phase, state, clock)
        log.debug("round=%d at=committing", played.number)
        commit(played, clock)
        state = played.after
    return state


def play_round(phase: Phase, state: ReplayState, clock: Clock) -> Played:
    """One round, for its commit."""
    recipe, number, version = phase.recipe, state.next_round, state.policy_version
    check_version(phase, version)
    groups, taken = take_groups(recipe, phase.actors.prompts, phase.encode, state)
    journal = phase.journal(number)
    rollout = Rollout(phase.actors, groups, number, journal)
    log.debug("round=%d at=begun", number)
    rolled = rollout.run(clock)
    log.debug("round=%d at=sampled", number)
    with clock("compare"):
        fresh = gate.compare(phase.trainer, rolled)
    gate.check(fresh, recipe.mismatch_limit, number)
    finished = [JudgedGroup(r.group, r.verdicts, number) for r in rolled if r.verdicts]
    usable = [group for group in finished if num_judged(group.verdicts) >= MIN_JUDGED]
    drawn = draw(
        [*state.buffer, *usable],
        train_groups=recipe.train_groups,
        buffer_groups=recipe.buffer_groups,
        group_uses=recipe.group_uses,
        seed=f"{recipe.seed}/{number}/buffer",
    )
    training = [training_group(recipe, group, number, version=version) for group in drawn.trained]
    stats = train(phase, training, number, clock)
    made = Made(number, version, rolled, finished, drawn, training, stats, rollout.sampling, fresh)
    row = round_figures(made, phase.actors.prompts)
    after = state_after(recipe, taken, made, row, seconds=clock.read()["wall_s"])
    lost = lost_tokens(made, journal, rollout, budget=recipe.phase_token_budget)
    return recorded(phase.actors, made, after, row, lost=lost)


def train(phase: Phase, training: Sequence[Group], number: int, clock: Clock) -> UpdateStats:
    """Update the policy, and have the sampler take the new weights as version `number` + 1."""
    if not training:
        return NO_UPDATE
    with clock("train"):
        stats = update(phase, training, number)
    log.debug("round=%d at=trained", number)
    gate.check(compared(stats), phase.recipe.mismatch_limit, number)
    with clock("publish"):
        ticket = phase.trainer.publish(number + 1, deadline_s=TRANSFER_DEADLINE_S)
    log.debug("round=%d at=published", number)
    with clock("update"):
        phase.actors.sampler.update(ticket, deadline_s=TRANSFER_DEADLINE_S)
    return stats


def update(phase: Phase, training: Sequence[Group], number: int) -> UpdateStats:
    """The update of round `number`: a function of the weights, the groups and the round alone."""
    recipe = phase.recipe
    return phase.trainer.policy_update(training, settings=recipe.update, lr=learning_rate(recipe, number))


def train_again(phase: Phase, rounds: Sequence[tuple[int, int, Sequence[JudgedGroup]]], version: int) -> None:
    """Make up the updates of committed rounds whose weights were not stored; nothing is sampled.

    Each round is (number, version of its policy, groups in the update's order). The sampler then holds the
    result as `version`.
    """
    for number, of_version, groups in rounds:
        training = [training_group(phase.recipe, group, number, version=of_version) for group in groups]
        if training:
            update(phase, training, number)
            log.info("trained_again round=%d groups=%d", number, len(training))
    ticket = phase.trainer.publish(version, deadline_s=TRANSFER_DEADLINE_S)
    phase.actors.sampler.update(ticket, deadline_s=TRANSFER_DEADLINE_S)


def learning_rate(recipe: RlRecipe, number: int) -> float:
    """The round's rate: linear warm-up over lr_warmup_rounds, then constant."""
    return recipe.update.lr * min(1.0, (number + 1) / max(1, recipe.lr_warmup_rounds))


def check_version(phase: Phase, version: int) -> None:
    """RuntimeError where the sampler would sample from another policy than the round's."""
    if phase.actors.sampler.version != version:
        raise RuntimeError(
            f"the sampler holds version {phase.actors.sampler.version} of the policy, this round is of"
            f" {version}; end its processes and run the stage again"
        )
