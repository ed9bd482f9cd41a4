"""When a phase ends before its last round: rules of the recipe on what the committed rounds measured."""

from dataclasses import replace
from statistics import fmean

from k15.loops.replay import ReplayState
from k15.recipes.rl import RlRecipe

SECONDS_PER_HOUR = 3600.0


def stop_reason(recipe: RlRecipe, state: ReplayState) -> str:
    """Why no further round follows `state`; empty where one does."""
    if state.next_round >= recipe.rounds:
        return ""
    span = recipe.stop_without_gain_rounds
    if span and not gained(state, span):
        return f"no gain: the mean pass rate of the last {span} rounds is not above the best before"
    if 0 < recipe.stop_after_tokens <= state.sampled_tokens:
        return f"budget: {state.sampled_tokens} tokens sampled of {recipe.stop_after_tokens}"
    hours = state.seconds / SECONDS_PER_HOUR
    if 0 < recipe.stop_after_hours <= hours:
        return f"budget: {hours:.2f} hours of {recipe.stop_after_hours:g}"
    return ""


def with_pass_rate(state: ReplayState, pass_rate: float, span: int) -> ReplayState:
    """The state with another round's pass rate: the last 2 · `span`, and the best mean before them."""
    if not span:
        return state
    rates = (*state.pass_rates, pass_rate)[-2 * span :]
    best = max(state.best_pass_rate, fmean(rates[:span]) if len(rates) == 2 * span else 0.0)
    return replace(state, pass_rates=rates, best_pass_rate=best)


def gained(state: ReplayState, span: int) -> bool:
    """Whether the mean of the last `span` rounds is above every earlier such mean (or there is none)."""
    rates = state.pass_rates
    return len(rates) < 2 * span or fmean(rates[-span:]) > state.best_pass_rate
