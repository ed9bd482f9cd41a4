"""Learning rates by step."""

import math
from collections.abc import Callable


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
