"""When a phase ends before its last round: rules of the recipe on what the committed rounds measured."""

from statistics import fmean

from k15.loops.replay import ReplayState
from k15.recipes.rl import RlRecipe

SECONDS_PER_HOUR = 3600.0


def stop_reason(recipe: RlRecipe, state: ReplayState) -> str:
    """Why no further round follows `state`; empty where one does."""
    if state.next_round >= recipe.rounds:
        return ""
    span = recipe.stop_without_gain_rounds
    if span and not gained(state.pass_rates, span):
        return f"no gain: the mean pass rate of the last {span} rounds is not above the best before"
    if 0 < recipe.stop_after_tokens <= state.sampled_tokens:
        return f"budget: {state.sampled_tokens} tokens sampled of {recipe.stop_after_tokens}"
    hours = state.seconds / SECONDS_PER_HOUR
    if 0 < recipe.stop_after_hours <= hours:
        return f"budget: {hours:.2f} hours of {recipe.stop_after_hours:g}"
    return ""


def gained(pass_rates: tuple[float, ...], span: int) -> bool:
    """Whether the mean of the last `span` rounds is above every earlier such mean (or there is none)."""
    if len(pass_rates) < 2 * span:
        return True
    earlier = [fmean(pass_rates[i : i + span]) for i in range(len(pass_rates) - 2 * span + 1)]
    return fmean(pass_rates[-span:]) > max(earlier)
