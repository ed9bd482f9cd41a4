"""Learning rates by step."""

import math
from collections.abc import Callable, Sequence
from functools import partial


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _linear(progress: float) -> float:
    return 1.0 - progress


def _constant(progress: float) -> float:  # noqa: ARG001 - the shape of a decay
    return 1.0


DECAYS: dict[str, Callable[[float], float]] = {"cosine": _cosine, "linear": _linear, "constant": _constant}


def learning_rate(
    step: int, *, steps: int, peak: float, final: float, warmup_steps: int, decay: str
) -> float:
    """Rate of step 0 … steps − 1: a linear warm-up that reaches `peak`, then a decay that ends at `final`.

    The warm-up never rates a step 0. ValueError for a decay that is none of DECAYS.
    """
    if decay not in DECAYS:
        raise ValueError(f"schedule {decay!r}: use one of {', '.join(sorted(DECAYS))}")
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps + 1) / max(1, steps - warmup_steps)
    return final + (peak - final) * DECAYS[decay](min(1.0, progress))


def in_turn(parts: Sequence[tuple[int, Callable[[int], float]]]) -> Callable[[int], float]:
    """The rate of a run made of parts (steps, rate by the part's own step), by the run's step."""

    def rate(step: int) -> float:
        first = 0
        for steps, of_part in parts:
            if step < first + steps:
                return of_part(step - first)
            first += steps
        raise ValueError(f"step {step} is past the run's last one")

    return rate


def course(
    steps: int, *, peak: float, final: float, warmup_steps: int, decay: str
) -> tuple[int, Callable[[int], float]]:
    """A part for `in_turn`: `steps` steps of `learning_rate`."""
    return steps, partial(
        learning_rate, steps=steps, peak=peak, final=final, warmup_steps=warmup_steps, decay=decay
    )
