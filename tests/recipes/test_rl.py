"""What the recipe of an RL phase refuses."""

import pytest

from k15.recipes.rl import PolicyUpdate


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"objective": "grpo", "tau": 0.2},
            'tau is a setting of objective "omd", and "grpo" does not read it',
        ),
        ({"objective": "rest", "baseline": "log_partition"}, "leave baseline out, or set the objective"),
        ({"clip_ratio": 0.1}, 'clip_ratio is a setting of objective "grpo", and "omd" does not'),
        ({"objective": "rest", "kl_weight": 0.0}, 'kl_weight is a setting of objective "grpo"'),
        ({"objective": "ppo"}, "objective"),
        ({"objective": "grpo", "clip_ratio": 1.0}, "clip_ratio"),
    ],
)
def test_settings_that_the_objective_does_not_read_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PolicyUpdate.parse(values, where="update")


@pytest.mark.parametrize("objective", ["omd", "rest", "grpo"])
def test_what_a_recipe_resolves_to_is_read_again(objective: str) -> None:
    made = PolicyUpdate.parse({"objective": objective, "lr": 1e-5}, where="update")
    assert PolicyUpdate.parse(made.resolved(), where="service") == made
