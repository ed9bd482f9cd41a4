"""Which prompts a round takes (METHOD.md §4). Pure functions of a seed: a resumed round draws the same."""

import random
from collections.abc import Mapping, Sequence


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
