"""95 % intervals by bootstrap over prompts: samples of one prompt stay together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
