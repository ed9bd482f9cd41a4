"""The length reward (METHOD.md §2), the penalty of repeats (§5) and the sum a group is trained on."""

from collections.abc import Sequence


def length_rewards(lengths: Sequence[int], correct: Sequence[bool]) -> list[float]:
    """λ of each of the k responses of one problem.

    λ = 0.5 − (len − min)/(max − min); a correct response gets λ, a wrong one min(0, λ);
    all get 0 where every length is the same. `lengths` count tokens of (y, z).
    """
    if len(lengths) != len(correct) or not lengths:
        raise ValueError(
            f"need as many lengths as verdicts, and at least one: {len(lengths)} and {len(correct)}"
        )
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return [0.0] * len(lengths)
    slopes = [0.5 - (length - shortest) / (longest - shortest) for length in lengths]
    return [slope if right else min(0.0, slope) for slope, right in zip(slopes, correct, strict=True)]


def repeat_penalties(repeated: Sequence[bool], *, weight: float) -> list[float]:
    """What each response that was stopped because it repeats itself loses (METHOD.md §5): −weight, else 0.

    ValueError where the weight is below 0: it would reward repeating.
    """
    if weight < 0:
        raise ValueError(f"the penalty of a repeat is {weight}: give what it takes away, 0 or more")
    return [-weight if stopped else 0.0 for stopped in repeated]


def group_rewards(
    lengths: Sequence[int],
    scores: Sequence[float],
    *,
    length_weight: float,
    repeated: Sequence[bool] = (),
    repeat_weight: float = 0.0,
) -> list[float]:
    """r_j plus the weighted length reward and the penalty of repeats; the scores where both weights are 0."""
    rewards = list(scores)
    if length_weight:
        shaped = length_rewards(lengths, [score > 0 for score in scores])
        rewards = [reward + length_weight * extra for reward, extra in zip(rewards, shaped, strict=True)]
    if repeat_weight:
        lost = repeat_penalties(repeated, weight=repeat_weight)
        rewards = [reward + loss for reward, loss in zip(rewards, lost, strict=True)]
    return rewards
