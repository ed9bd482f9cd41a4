"""Learning rates by step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _linear(progress: float) -> float:
    return 1.0 - progress


def _constant(progress: float) -> float:  # noqa: ARG001 - the shape of a decay
    return 1.0


DECAYS: dict[str, Callable[[float], float]] = {"cosine": _cosine, "linear": _linear, "constant": _constant}


def learning_rate(
    step: int, *, steps: int, peak: float, final: float, warmup_steps: int, decay: str, start: float = 0.0
) -> float:
    """Rate of step 0 … steps − 1: a linear warm-up from `start` to `peak`, then a decay that ends at `final`.

    The warm-up's first step is already above `start` and its last at `peak`, as is the first step where there
    is none. ValueError for a decay that is none of DECAYS.
    """
    if decay not in DECAYS:
        raise ValueError(f"schedule {decay!r}: use one of {', '.join(sorted(DECAYS))}")
    if step < warmup_steps:
        return start + (peak - start) * (step + 1) / warmup_steps
    at_peak = max(0, warmup_steps - 1)
    progress = (step - at_peak) / max(1, steps - 1 - at_peak)
    return final + (peak - final) * DECAYS[decay](min(1.0, progress))


@dataclass(frozen=True, slots=True)
class Course:
    """`learning_rate` over a stretch of a run."""

    steps: int
    peak: float
    final: float
    warmup_steps: int
    decay: str

    def rate(self, step: int, *, start: float = 0.0) -> float:
        """Of the stretch's own step, warmed up from `start`."""
        return learning_rate(
            step,
            steps=self.steps,
            peak=self.peak,
            final=self.final,
            warmup_steps=self.warmup_steps,
            decay=self.decay,
            start=start,
        )


def in_turn(courses: Sequence[Course]) -> Callable[[int], float]:
    """The rate by the step of a run made of courses: each warms up from where the one before it ended."""

    def rate(step: int) -> float:
        first, start = 0, 0.0
        for course in courses:
            if step < first + course.steps:
                return course.rate(step - first, start=start)
            first += course.steps
            start = course.rate(course.steps - 1, start=start)
        raise ValueError(f"step {step} is past the run's last one")

    return rate
