"""Prompt samplers: no prompt skipped, none twice in an epoch, the same after a resume."""

from collections import Counter

from k15.algo.sampling import priorities, prioritized, uniform


def test_uniform_visits_every_prompt_once_per_epoch():
    assert sorted(uniform(10, start=0, count=10, seed=3)) == list(range(10))
    assert Counter(uniform(10, start=0, count=40, seed=3)) == {i: 4 for i in range(10)}


def test_uniform_in_pieces_equals_uniform_at_once():
    whole = uniform(7, start=0, count=23, seed=5)
    pieces = uniform(7, start=0, count=9, seed=5) + uniform(7, start=9, count=14, seed=5)
    assert pieces == whole


def test_epochs_differ():
    assert uniform(50, start=0, count=50, seed=1) != uniform(50, start=50, count=50, seed=1)


def test_priority_is_one_minus_success_rate_with_floor_and_prior():
    weights = priorities(["a", "b", "c"], {"a": (3, 4), "b": (8, 8)}, floor=0.05, prior=0.5)
    assert weights == [0.25, 0.05, 0.5]


def test_prioritized_draws_hard_prompts_more_often_and_starves_none():
    draws = Counter(i for n in range(4000) for i in prioritized([0.05, 0.95], count=1, seed=str(n)))
    assert 0.03 < draws[0] / 4000 < 0.07


def test_prioritized_draws_without_replacement():
    assert sorted(prioritized([0.1] * 6, count=6, seed="x")) == list(range(6))
