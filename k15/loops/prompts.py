"""The groups of a phase: unfinished ones first, then prompts as the recipe's sampler takes them (§4)."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from k15.algo.sampling import curriculum, priorities, prioritized
from k15.loops.replay import ReplayState, RolloutGroup
from k15.recipes.rl import RlRecipe
from k15.records import Prompt, Trajectory

Encode = Callable[[Prompt], tuple[int, ...]]


def take_groups(
    recipe: RlRecipe, prompts: Mapping[str, Prompt], encode: Encode, state: ReplayState
) -> tuple[list[RolloutGroup], ReplayState]:
    """What is open, and fresh prompts for the room a phase has left; and the state with them taken.

    A function of its arguments: a resumed round takes what the one that was killed had taken.
    """
    carried = list(state.open_groups)
    unfinished = sum(len(group.trajectories) - group.num_finished for group in carried)
    wanted = max(0, recipe.prompts_per_round - -(-unfinished // recipe.samples_per_prompt))
    taken, frontiers = SAMPLERS[recipe.sampler](recipe, prompts, state, wanted)
    fresh = []
    for offset, prompt_id in enumerate(taken):
        tokens = encode(prompts[prompt_id])
        empty = tuple(Trajectory(prompt_id, k, tokens) for k in range(recipe.samples_per_prompt))
        fresh.append(RolloutGroup(state.groups_taken + offset, prompt_id, state.next_round, empty))
    after = replace(state, groups_taken=state.groups_taken + len(taken), frontiers=frontiers, open_groups=())
    return carried + fresh, after


def check_prompts(recipe: RlRecipe, prompts: Mapping[str, Prompt]) -> None:
    """ValueError where there is no prompt to take in some round."""
    if not prompts:
        raise ValueError("there are no prompts; check the data stage's num_train and num_heldout")
    difficulties = [prompt.difficulty for prompt in prompts.values()]
    spans = bands(recipe)
    for first, _, _ in spans:
        curriculum(difficulties, spans, (0,) * len(spans), number=first, count=0, seed=0)


def bands(recipe: RlRecipe) -> list[tuple[int, float, float]]:
    """The recipe's bands; all difficulties where its sampler has none."""
    if recipe.sampler != "curriculum":
        return [(0, 0.0, 1.0)]
    return [(band.from_round, band.easiest, band.hardest) for band in recipe.curriculum]


def _by_band(
    recipe: RlRecipe, prompts: Mapping[str, Prompt], state: ReplayState, wanted: int
) -> tuple[list[str], tuple[int, ...]]:
    """Every prompt of the round's band once per epoch; each band keeps its own place."""
    spans, ids = bands(recipe), list(prompts)
    drawn, frontiers = curriculum(
        [prompt.difficulty for prompt in prompts.values()],
        spans,
        state.frontiers or (0,) * len(spans),
        number=state.next_round,
        count=wanted,
        seed=recipe.seed,
    )
    return [ids[position] for position in drawn], frontiers


def _by_priority(
    recipe: RlRecipe, prompts: Mapping[str, Prompt], state: ReplayState, wanted: int
) -> tuple[list[str], tuple[int, ...]]:
    """Drawn by what fails, but for those that are open."""
    open_ids = {group.prompt_id for group in state.open_groups}
    free = [prompt_id for prompt_id in prompts if prompt_id not in open_ids]
    weights = priorities(free, state.success, floor=recipe.priority_floor, prior=recipe.priority_prior)
    drawn = prioritized(weights, count=min(wanted, len(free)), seed=f"{recipe.seed}/{state.next_round}")
    return [free[position] for position in drawn], (sum(state.frontiers) + len(drawn),)


SAMPLERS = {"uniform": _by_band, "curriculum": _by_band, "prioritized": _by_priority}
