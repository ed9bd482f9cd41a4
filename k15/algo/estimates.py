"""What several samples of one problem say: pass@k and majority@k."""

from collections import Counter
from collections.abc import Sequence
from math import comb
from typing import NamedTuple


class Majority(NamedTuple):
    """Whether the most frequent answer is correct; of `num_tied` equally frequent ones, the share that is."""

    score: float
    num_tied: int  # 1 where one answer wins, 0 where no sample states any


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The chance that one of k samples drawn without replacement is correct: 1 − C(n−c, k) / C(n, k).

    An unbiased estimate for k fresh samples (arXiv 2107.03374, eq. 1). ValueError unless 1 ≤ k ≤ n and
    0 ≤ c ≤ n.
    """
    if not (1 <= k <= num_samples and 0 <= num_correct <= num_samples):
        raise ValueError(f"pass@{k} of {num_samples} samples, {num_correct} of them correct, is not defined")
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def majority(answers: Sequence[int | None], correct: Sequence[bool]) -> Majority:
    """By each sample's class of equal answers (None: it states none) and whether it is correct.

    A tie is decided by no coin: it scores the expected value of drawing one of the tied answers.
    """
    frequencies = Counter(answer for answer in answers if answer is not None)
    if not frequencies:
        return Majority(0.0, 0)
    most = max(frequencies.values())
    tied = [answer for answer, number in frequencies.items() if number == most]
    right = {answer for answer, good in zip(answers, correct, strict=True) if good}
    return Majority(sum(answer in right for answer in tied) / len(tied), len(tied))
