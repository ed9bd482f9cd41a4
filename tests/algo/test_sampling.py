"""Prompt samplers: no prompt skipped, none twice in an epoch, the same after a resume."""

from collections import Counter
from itertools import chain

import pytest

from k15.algo.sampling import curriculum, priorities, prioritized, uniform


def test_uniform_visits_every_prompt_once_per_epoch():
    assert sorted(uniform(10, start=0, count=10, seed=3)) == list(range(10))
    assert Counter(uniform(10, start=0, count=40, seed=3)) == {i: 4 for i in range(10)}


def test_uniform_in_pieces_equals_uniform_at_once():
    whole = uniform(7, start=0, count=23, seed=5)
    pieces = uniform(7, start=0, count=9, seed=5) + uniform(7, start=9, count=14, seed=5)
    assert pieces == whole


def test_epochs_differ():
    assert uniform(50, start=0, count=50, seed=1) != uniform(50, start=50, count=50, seed=1)


DIFFICULTIES = [n / 20 for n in range(21)]
HARD_LATER = [(0, 0.0, 1.0), (3, 0.6, 1.0)]


def rounds(bands, number, start=(0, 0), count=5):
    """The draws of rounds 0 … number − 1, and the frontiers after them."""
    drawn, frontiers = [], start
    for n in range(number):
        positions, frontiers = curriculum(DIFFICULTIES, bands, frontiers, number=n, count=count, seed=4)
        drawn.append(positions)
    return drawn, frontiers


def test_a_curriculum_is_uniform_first_and_hard_only_from_its_switch_round():
    drawn, frontiers = rounds(HARD_LATER, 9)
    first, then = list(chain(*drawn[:3])), list(chain(*drawn[3:]))
    assert first == uniform(21, start=0, count=15, seed=4)
    assert Counter(then[:27]) == {i: 3 for i in range(12, 21)}  # of nine hard ones, each once an epoch
    assert frontiers == (15, 30)


def test_a_curriculum_goes_on_where_its_frontiers_say():
    whole, _ = rounds(HARD_LATER, 6)
    again, _ = curriculum(DIFFICULTIES, HARD_LATER, (15, 5), number=4, count=5, seed=4)
    assert again == whole[4]


def test_bands_follow_each_other_and_hold_their_bounds():
    bands = [(0, 0.0, 0.25), (2, 0.25, 0.5), (4, 0.5, 1.0)]
    drawn, _ = rounds(bands, 6, start=(0, 0, 0), count=11)
    members = [set(one) | set(two) for one, two in zip(drawn[::2], drawn[1::2], strict=True)]
    assert members == [set(range(6)), set(range(5, 11)), set(range(10, 21))]


@pytest.mark.parametrize(
    ("bands", "said"),
    [
        ([], "rising; these at"),
        ([(1, 0.0, 1.0)], "rising; these at"),
        ([(0, 0.0, 1.0), (0, 0.5, 1.0)], "rising; these at"),
        ([(0, 0.41, 0.44)], "no prompt has a difficulty of 0.41 to 0.44; widen the band from round 0"),
    ],
)
def test_bands_that_cannot_be_drawn_from_are_refused(bands, said):
    with pytest.raises(ValueError, match=said):
        curriculum(DIFFICULTIES, bands, (0,) * len(bands), number=0, count=1, seed=0)


def test_every_band_needs_its_frontier():
    with pytest.raises(ValueError, match="2 bands and 1 frontiers"):
        curriculum(DIFFICULTIES, HARD_LATER, (0,), number=0, count=1, seed=0)


def test_priority_is_one_minus_success_rate_with_floor_and_prior():
    weights = priorities(["a", "b", "c"], {"a": (3, 4), "b": (8, 8)}, floor=0.05, prior=0.5)
    assert weights == [0.25, 0.05, 0.5]


def test_prioritized_draws_hard_prompts_more_often_and_starves_none():
    draws = Counter(i for n in range(4000) for i in prioritized([0.05, 0.95], count=1, seed=str(n)))
    assert 0.03 < draws[0] / 4000 < 0.07


def test_prioritized_draws_without_replacement():
    assert sorted(prioritized([0.1] * 6, count=6, seed="x")) == list(range(6))
