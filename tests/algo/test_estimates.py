"""pass@k and majority@k against counting every draw."""

from itertools import combinations, product
from statistics import fmean

import pytest

from k15.algo.estimates import Majority, majority, pass_at_k

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("num_samples", [1, 2, 3, 5, 7])
def test_pass_at_k_is_the_share_of_draws_with_a_correct_sample(num_samples: int) -> None:
    for num_correct, k in product(range(num_samples + 1), range(1, num_samples + 1)):
        samples = [place < num_correct for place in range(num_samples)]
        expected = fmean(any(draw) for draw in combinations(samples, k))
        assert pass_at_k(num_samples, num_correct, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_what_is_not_defined_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="is not defined"):
        pass_at_k(n, c, k)


def test_majority_is_the_mean_over_the_most_frequent_answers() -> None:
    for answers in product([None, 0, 1, 2], repeat=5):
        correct = [answer == 0 for answer in answers]
        stated = [answer for answer in answers if answer is not None]
        most = max((stated.count(answer) for answer in stated), default=0)
        winners = [answer for answer in {*stated} if stated.count(answer) == most]
        expected = sum(answer == 0 for answer in winners) / len(winners) if winners else 0.0
        assert majority(answers, correct) == Majority(expected, len(winners))
