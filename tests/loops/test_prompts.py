"""The recipe's samplers over rounds, and recipes that fit no prompt or no group."""

import pytest

from k15.loops.prompts import check_prompts
from tests.loops.fakes import history_of, phase, play, recipe


def taken(rounds):
    """(round, prompt) of every group, by the round that took it."""
    first = {row.group: (row.first_round, row.prompt_id) for played in rounds for row in played.groups}
    return [first[number] for number in sorted(first)]


def difficulty(prompt_id):
    return int(prompt_id[1:]) / 9


def test_uniform_takes_every_prompt_once_an_epoch():
    state, rounds = play(phase(recipe(rounds=6, prompts_per_round=3)))
    ids = [prompt_id for _, prompt_id in taken(rounds)]
    assert len(set(ids[:9])) == len(set(ids[9:])) == 9
    assert state.frontiers == (18,) and state.groups_taken == 18


def test_a_curriculum_goes_through_its_bands_and_keeps_a_place_in_each():
    bands = [{"from_round": 0}, {"from_round": 3, "easiest": 0.5}, {"from_round": 5, "hardest": 0.25}]
    settings = recipe(rounds=7, prompts_per_round=2, sampler="curriculum", curriculum=bands)
    state, rounds = play(phase(settings))
    by_round = {}
    for number, prompt_id in taken(rounds):
        by_round.setdefault(number, []).append(difficulty(prompt_id))
    assert all(value >= 0.5 for number in (3, 4) for value in by_round[number])
    assert all(value <= 0.25 for number in (5, 6) for value in by_round[number])
    assert state.frontiers == (6, 4, 4)
    middle = history_of(rounds[:4]).state()
    again = phase(settings, sampler=type(phase(settings).actors.sampler)(version=middle.policy_version))
    assert taken(play(again, middle)[1]) == taken(rounds)[8:]


def test_prioritized_takes_no_prompt_that_is_open():
    settings = recipe(rounds=8, prompts_per_round=6, phase_token_budget=3, sampler="prioritized")
    _, rounds = play(phase(settings))
    for played in rounds:
        open_ids = [row.prompt_id for row in played.groups]
        assert len(open_ids) == len(set(open_ids))


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"min_finished": 1}, "baseline needs 2"),
        ({"min_finished": 4}, "of the 3 samples"),
        ({"train_groups": 4}, "set buffer_groups too"),
        ({"group_uses": 2}, "set buffer_groups too"),
        ({"curriculum": [{"from_round": 1}]}, "rounds 0, …, rising"),
        ({"curriculum": []}, "rounds 0, …, rising"),
        ({"curriculum": [{"from_round": 0, "easiest": 0.6, "hardest": 0.4}]}, "no difficulty lies in 0.6"),
    ],
)
def test_recipes_that_cannot_work_are_refused(over, says):
    with pytest.raises(ValueError, match=says):
        recipe(**over)


def test_a_band_without_prompts_is_named():
    settings = recipe(sampler="curriculum", curriculum=[{"from_round": 0, "easiest": 0.99}])
    made = phase(settings)
    with pytest.raises(ValueError, match="no prompt has a difficulty of 0.99 to 1"):
        check_prompts(settings, made.actors.prompts)
    with pytest.raises(ValueError, match="there are no prompts"):
        check_prompts(settings, {})
