"""What a recipe asks of a step."""

from k15.recipes.activation import ActivateRecipe
from k15.recipes.data import DataRecipe
from k15.recipes.rl import RlRecipe
from k15.recipes.supervised import SftRecipe
from k15.sizing import workload
from k15.sizing.workload import Workload


def test_supervised_rows_are_as_long_as_they_may_be() -> None:
    recipe = SftRecipe(steps=1, examples_per_step=64, max_tokens=2048, max_tokens_per_microbatch=8192)
    assert workload.of(recipe) == Workload(2048, 8192, 64 * 2048)
    few = SftRecipe(steps=1, examples_per_step=2, max_tokens=512, max_tokens_per_microbatch=8192)
    assert workload.of(few) == Workload(512, 1024, 1024)
    assert workload.of(few.model_copy(update={"max_tokens_per_microbatch": 256})) == Workload(256, 256, 512)


def test_of_phases_the_longest_counts_and_packed_sequences_are_full() -> None:
    phases = [
        {"name": "32k", "lr": 2e-5, "epochs": 1, "max_tokens": 32768, "sequences_per_step": 32},
        {"name": "128k", "lr": 1e-5, "epochs": 1, "max_tokens": 131072, "sequences_per_step": 8},
    ]
    recipe = SftRecipe.parse({"phases": phases, "max_tokens_per_microbatch": 131072}, where="test")
    assert workload.of(recipe) == Workload(131072, 131072, 8 * 131072)


def test_activation_is_its_longest_phase() -> None:
    phases = [
        {"length": 32768, "steps": 1, "sequences_per_step": 32},
        {"length": 131072, "steps": 1, "sequences_per_step": 8},
    ]
    recipe = ActivateRecipe.parse({"phases": phases, "max_tokens_per_microbatch": 131072}, where="test")
    assert workload.of(recipe) == Workload(131072, 131072, 8 * 131072)


def test_rl_is_one_update_of_its_round() -> None:
    values = {
        "prompts_per_round": 10,
        "samples_per_prompt": 8,
        "max_response_tokens": 100,
        "update": {"minibatches": 3, "max_tokens_per_microbatch": 1000},
    }
    assert workload.of(RlRecipe.parse(values, where="test")) == Workload(100, 1000, 4 * 8 * 100)


def test_other_stages_do_not_train() -> None:
    assert workload.of(DataRecipe()) is None
