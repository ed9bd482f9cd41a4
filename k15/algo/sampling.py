"""Which prompts a round takes (METHOD.md §4). Pure functions of a seed: a resumed round draws the same."""

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise


def uniform(num_prompts: int, *, start: int, count: int, seed: int) -> list[int]:
    """Positions `start … start + count − 1` of an endless stream that visits every prompt once per epoch.

    Epoch e is a permutation drawn from (seed, e), so no prompt is skipped and none comes twice in an epoch.
    """
    if num_prompts < 1:
        raise ValueError("no prompts to sample from")
    drawn: list[int] = []
    while len(drawn) < count:
        epoch, offset = divmod(start + len(drawn), num_prompts)
        order = list(range(num_prompts))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        drawn += order[offset : offset + count - len(drawn)]
    return drawn


def curriculum(
    difficulties: Sequence[float],
    bands: Sequence[tuple[int, float, float]],
    frontiers: Sequence[int],
    *,
    number: int,
    count: int,
    seed: int,
) -> tuple[list[int], tuple[int, ...]]:
    """`count` positions of prompts in the band of round `number`, and the frontiers after them.

    A band is (first round, easiest, hardest), bounds included; it lasts until the next one's first round. So
    (0, 0, 1), (24, .6, 1) is uniform first, then hard only. Each band is a stream of its own as `uniform` has
    it, and its frontier the prompts taken of it so far: none is skipped, nor twice in an epoch of the band.
    ValueError where the bands do not start at round 0 and rise, or hold no prompt.
    """
    starts = [band[0] for band in bands]
    if not starts or starts[0] or any(first >= second for first, second in pairwise(starts)):
        raise ValueError(f"curriculum: bands start at rounds 0, …, rising; these at {starts}")
    if len(frontiers) != len(bands):
        raise ValueError(f"curriculum: {len(bands)} bands and {len(frontiers)} frontiers; give each its own")
    place = bisect_right(starts, number) - 1
    _, easiest, hardest = bands[place]
    members = [i for i, difficulty in enumerate(difficulties) if easiest <= difficulty <= hardest]
    if not members:
        raise ValueError(
            f"curriculum: no prompt has a difficulty of {easiest:g} to {hardest:g}; widen the band from "
            f"round {starts[place]}"
        )
    drawn = uniform(len(members), start=frontiers[place], count=count, seed=seed)
    after = (*frontiers[:place], frontiers[place] + count, *frontiers[place + 1 :])
    return [members[i] for i in drawn], after


def prioritized(weights: Sequence[float], *, count: int, seed: str) -> list[int]:
    """`count` different positions, drawn with probability ∝ weight (Efraimidis-Spirakis keys)."""
    if count > len(weights):
        raise ValueError(f"asked for {count} prompts out of {len(weights)}")
    generator = random.Random(seed)
    keys = [generator.random() ** (1.0 / weight) if weight > 0 else -1.0 for weight in weights]
    return sorted(range(len(weights)), key=lambda i: keys[i], reverse=True)[:count]


def priorities(
    ids: Sequence[str], success: Mapping[str, Sequence[int]], *, floor: float, prior: float
) -> list[float]:
    """P(i) ∝ max(floor, 1 − s_i); s_i from (correct, judged) counts, `prior` for an untried prompt."""
    weights = []
    for prompt_id in ids:
        correct, judged = success.get(prompt_id, (0, 0))
        rate = correct / judged if judged else prior
        weights.append(max(floor, 1.0 - rate))
    return weights
