"""The replay buffer: bounded, drawn from old and new alike, each group as often as it may be used."""

import pytest

from k15.loops.buffer import draw
from k15.loops.replay import JudgedGroup, RolloutGroup


def judged(*numbers, uses=0):
    return [JudgedGroup(RolloutGroup(n, f"p{n}", n, ()), (), n, uses) for n in numbers]


def numbers(groups):
    return [group.rollouts.number for group in groups]


def test_all_groups_are_taken_in_order_where_no_number_is_asked_for():
    drawn = draw(judged(3, 1, 2), train_groups=0, buffer_groups=0, group_uses=1, seed="s")
    assert (numbers(drawn.trained), drawn.kept, drawn.crowded_out) == ([3, 1, 2], (), ())


def test_what_is_not_drawn_stays_and_the_oldest_leave_first():
    drawn = draw(judged(*range(10)), train_groups=4, buffer_groups=5, group_uses=1, seed="s")
    assert len(drawn.trained) == 4 and len(drawn.kept) == 5 and len(drawn.crowded_out) == 1
    rest = [n for n in range(10) if n not in numbers(drawn.trained)]
    assert numbers(drawn.crowded_out) + numbers(drawn.kept) == rest


def test_a_used_group_stays_for_its_other_uses_and_is_never_called_unused():
    drawn = draw(judged(0, 1) + judged(2, uses=1), train_groups=0, buffer_groups=1, group_uses=2, seed="s")
    assert numbers(drawn.trained) == [0, 1, 2] and numbers(drawn.kept) == [1] and not drawn.crowded_out
    assert [group.uses for group in drawn.trained] == [1, 1, 2]


def test_draws_mix_the_ages_of_groups():
    ages = [0] * 20
    for seed in range(500):
        drawn = draw(judged(*range(20)), train_groups=5, buffer_groups=20, group_uses=1, seed=str(seed))
        for number in numbers(drawn.trained):
            ages[number] += 1
    assert sum(ages) == 2500
    assert ages == pytest.approx([125] * 20, abs=45)
    again = draw(judged(*range(20)), train_groups=5, buffer_groups=20, group_uses=1, seed="7")
    assert again == draw(judged(*range(20)), train_groups=5, buffer_groups=20, group_uses=1, seed="7")
