"""The groups of a phase: unfinished ones first, then prompts as the recipe's sampler takes them (§4)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from k15.algo.sampling import priorities, prioritized, uniform
from k15.loops.replay import ReplayState, RolloutGroup
from k15.recipes.rl import Band, RlRecipe
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
    for band in bands(recipe):
        if not members(prompts, band):
            raise ValueError(
                f"curriculum: no prompt has a difficulty of {band.easiest:g} to {band.hardest:g}; widen the"
                f" band from round {band.from_round}"
            )


def bands(recipe: RlRecipe) -> Sequence[Band]:
    """The recipe's bands; all difficulties where its sampler has none."""
    return recipe.curriculum if recipe.sampler == "curriculum" else (Band(from_round=0),)


def members(prompts: Mapping[str, Prompt], band: Band) -> list[str]:
    """The ids of the prompts in a band, in their order."""
    return [p.id for p in prompts.values() if band.easiest <= p.difficulty <= band.hardest]


def _by_band(
    recipe: RlRecipe, prompts: Mapping[str, Prompt], state: ReplayState, wanted: int
) -> tuple[list[str], tuple[int, ...]]:
    """Every prompt of the round's band once per epoch; each band keeps its own place."""
    all_bands = bands(recipe)
    place = max(i for i, band in enumerate(all_bands) if band.from_round <= state.next_round)
    ids = members(prompts, all_bands[place])
    frontiers = list(state.frontiers or (0,) * len(all_bands))
    drawn = uniform(len(ids), start=frontiers[place], count=wanted, seed=recipe.seed)
    frontiers[place] += wanted
    return [ids[position] for position in drawn], tuple(frontiers)


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
