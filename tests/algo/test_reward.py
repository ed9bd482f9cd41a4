"""The length reward against METHOD.md §2's vectors."""

import pytest

from k15.algo.reward import group_rewards, length_rewards


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
