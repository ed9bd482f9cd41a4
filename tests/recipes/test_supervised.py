"""The recipes of stages that fit tokens: no rate and no batch size is other than what was written."""

from pathlib import Path
from typing import Any

import pytest

from k15.config import Config, load_toml
from k15.recipes import KINDS, Pipeline
from k15.recipes.activation import ActivateRecipe
from k15.recipes.rl import PolicyUpdate
from k15.recipes.supervised import FitRecipe, Optimizer, Phase, SftRecipe

RECIPES = Path(__file__).parents[2] / "recipes"
PHASES = [
    {"name": "32k", "epochs": 1, "lr": 2e-5, "final_lr": 2e-6},
    {"name": "128k", "epochs": 1, "lr": 1e-5, "max_tokens": 1024},
]


def parse(**values: Any) -> SftRecipe:
    return SftRecipe.parse(values, where="sft")


def test_a_rate_falls_to_a_tenth_unless_told_otherwise() -> None:
    assert Optimizer(lr=2e-5).last_lr == pytest.approx(2e-6)
    assert Optimizer(lr=2e-5, final_lr=0.0).last_lr == 0.0
    (phase,) = parse(steps=1, optimizer={"lr": 2e-5}).all_phases()
    assert (phase.lr, phase.last_lr) == pytest.approx((2e-5, 2e-6))


def test_a_rate_that_would_rise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"final_lr=0.0001 is above lr=2e-05"):
        parse(steps=1, optimizer={"lr": 2e-5, "final_lr": 1e-4})
    with pytest.raises(ValueError, match=r"phases\.0: final_lr=0.0001 is above lr=1e-05"):
        parse(phases=[{"name": "p", "steps": 1, "lr": 1e-5, "final_lr": 1e-4}])


def test_a_phase_says_its_rate() -> None:
    with pytest.raises(ValueError, match=r"phases\.0\.lr: Field required"):
        parse(phases=[{"name": "p", "steps": 1}])
    assert Phase(name="p", steps=1, lr=1e-5).last_lr == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"optimizer": {"lr": 2e-5, "weight_decay": 0.1}}, r"optimizer\.lr: each phase has its own"),
        ({"optimizer": {"lr": 1e-3}}, r"optimizer\.lr"),  # the default's value too
        (
            {"optimizer": {"warmup_steps": 5, "schedule": "linear"}},
            r"optimizer\.schedule, optimizer\.warmup_s",
        ),
        ({"max_tokens": 4096, "sequences_per_step": 8}, "sequences_per_step, max_tokens: each phase"),
        ({"examples_per_step": 8}, "examples_per_step"),
        ({"mixture": {"a": 1.0}, "mixture_by": "tokens"}, "mixture, mixture_by"),
    ],
)
def test_what_phases_have_instead_is_refused_beside_them(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse(phases=PHASES, **given)


def test_a_resolved_recipe_is_the_same_recipe() -> None:
    for recipe in (
        parse(phases=PHASES, optimizer={"weight_decay": 0.1}, seed=3),
        parse(steps=5, optimizer={"lr": 2e-5}),
    ):
        again = SftRecipe.parse(recipe.resolved(), where="resolved")
        assert again == recipe
        assert again.resolved() == recipe.resolved()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.toml")), ids=str)
def test_every_recipe_in_the_tree_is_read_as_it_is_written(path: Path) -> None:
    for name, node in Pipeline.parse(load_toml(path), where=str(path)).nodes.items():
        recipe = KINDS[node.kind].parse(node.recipe, where=name)
        roles = [*node.inputs, *node.files]
        assert not isinstance(recipe, FitRecipe) or recipe.role_problems(roles) == ()


@pytest.mark.parametrize("owner", [Optimizer, PolicyUpdate])
@pytest.mark.parametrize(
    "value", [{"adam_beta1": 1.0}, {"adam_beta2": -0.1}, {"adam_epsilon": 0.0}, {"clip_gradient_norm": 0.0}]
)
def test_adams_values_are_refused_out_of_range(owner: type[Config], value: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(value))):
        owner.parse(value, where="test")


def test_a_data_set_that_no_length_draws_from_is_refused() -> None:
    phase = {"length": 64, "steps": 1, "sequences_per_step": 1}
    mixed = {**phase, "full": {"long": 1.0}, "partial": {"short": 1.0}}
    roles = ["model", "data.long", "data.short", "data.other"]
    problems = ActivateRecipe.parse({"phases": [mixed]}, where="t").role_problems(roles)
    assert problems == ("inputs.data.other: no phase draws from it; leave it out",)
    assert ActivateRecipe.parse({"phases": [mixed, phase]}, where="t").role_problems(roles) == ()
