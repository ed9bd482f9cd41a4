"""The length reward against METHOD.md §2's vectors."""

import pytest

from k15.algo.reward import group_rewards, length_rewards, repeat_penalties


@pytest.mark.parametrize(
    ("lengths", "correct", "expected"),
    [
        ([100, 200, 300, 500], [True, False, True, False], [0.5, 0.0, 0.0, -0.5]),
        ([100, 300], [False, True], [0.0, -0.5]),
        ([70, 70, 70], [True, False, True], [0.0, 0.0, 0.0]),
    ],
)
def test_length_reward_equals_the_paper_s_definition(lengths, correct, expected):
    assert length_rewards(lengths, correct) == pytest.approx(expected)


def test_weight_zero_leaves_the_scores_alone():
    assert group_rewards([1, 9], [1.0, 0.0], length_weight=0.0) == [1.0, 0.0]


def test_the_weighted_length_reward_is_added_to_the_score():
    assert group_rewards([100, 300], [0.0, 1.0], length_weight=0.5) == pytest.approx([0.0, 0.75])


def test_a_wrong_response_never_gains_by_being_short():
    assert max(length_rewards([1, 50, 100], [False] * 3)) == 0.0


def test_lengths_and_verdicts_must_match():
    with pytest.raises(ValueError, match="as many lengths as verdicts"):
        length_rewards([1, 2], [True])


def test_a_response_stopped_for_repeating_itself_loses_the_weight():
    assert repeat_penalties([True, False, True], weight=0.25) == [-0.25, 0.0, -0.25]
    rewards = group_rewards(
        [100, 300], [1.0, 0.0], length_weight=0.5, repeated=[False, True], repeat_weight=0.25
    )
    assert rewards == pytest.approx([1.25, -0.5])
    assert group_rewards([1, 9], [1.0, 0.0], length_weight=0.0, repeated=[True, True]) == [1.0, 0.0]


def test_a_penalty_that_rewards_repeating_is_refused():
    with pytest.raises(ValueError, match="0 or more"):
        repeat_penalties([True], weight=-1.0)


def test_every_response_needs_to_be_known_as_repeated_or_not():
    with pytest.raises(ValueError, match="zip"):
        group_rewards([1, 9], [1.0, 0.0], length_weight=0.0, repeated=[True], repeat_weight=0.5)
