"""The length reward (METHOD.md §2) and the sum a group is trained on."""

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


def group_rewards(lengths: Sequence[int], scores: Sequence[float], *, length_weight: float) -> list[float]:
    """r_j plus the weighted length reward; with weight 0 the scores themselves."""
    if length_weight == 0:
        return list(scores)
    shaped = length_rewards(lengths, [score > 0 for score in scores])
    return [score + length_weight * extra for score, extra in zip(scores, shaped, strict=True)]
