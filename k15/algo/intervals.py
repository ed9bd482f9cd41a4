"""95 % intervals: by bootstrap over prompts, whose samples stay together, and over a few runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Student's t at 97.5 % for 1, 2, … 9 degrees of freedom.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over prompts with its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float


def mean_interval(per_prompt: Sequence[float], *, draws: int, seed: int) -> Interval:
    """Interval of the mean of one number per prompt; ValueError without prompts."""
    values = np.asarray(per_prompt, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no prompts to average over")
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, values.size, values.size)].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def paired_interval(first: Sequence[float], second: Sequence[float], *, draws: int, seed: int) -> Interval:
    """Interval of mean(first − second), paired by prompt."""
    if len(first) != len(second):
        raise ValueError(f"a paired comparison needs the same prompts: {len(first)} and {len(second)}")
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], draws=draws, seed=seed)


def runs_interval(values: Sequence[float]) -> Interval:
    """Student's 95 % interval of the mean of a few runs; ValueError for fewer than 2 or over 10.

    For runs of unlike seeds, of which there are too few to draw from.
    """
    if not 2 <= len(values) <= len(T_975) + 1:
        raise ValueError(f"an interval over runs needs 2 to {len(T_975) + 1}, and there are {len(values)}")
    mean, wide = np.mean(values), T_975[len(values) - 2] * np.std(values, ddof=1) / len(values) ** 0.5
    return Interval(float(mean), float(mean - wide), float(mean + wide))
