"""The recipes for RL at 128k fit the GPUs they name: the trainer by k15.sizing, the samplers by their weights
and the cache of at least a few whole responses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from k15.recipes import KINDS
from k15.recipes.pipeline import Node
from k15.recipes.rl import RlRecipe
from k15.sizing import shape
from k15.sizing.advice import Machine, asked, find
from k15.sizing.hardware import GIB
from k15.sizing.shape import Shape
from k15.store.plan import load_pipeline
from tests.sizing.conftest import SaveConfig

ROOT = Path(__file__).parents[2]
CONTEXT = 131_072
PROMPT = 4096
BF16 = 2
WHOLE_RESPONSES = 8  # that a sampler's cache holds at once, at the least
RANKS_ON_HOST = 8
QWEN25_7B: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "head_dim": None,
}


@dataclass(frozen=True)
class Case:
    """A recipe, the model it is for, and its GPUs."""

    file: str
    config: Mapping[str, Any]
    gpu: str
    gpu_memory_gb: float
    sampler_tensor: int


CASES = [Case("rl-7b", QWEN25_7B, "h100", 80.0, 4), Case("rl-32b", {}, "h200", 141.0, 8)]
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.file)


def node_of(case: Case) -> tuple[Node, RlRecipe]:
    pipeline = load_pipeline(ROOT / "recipes/full" / f"{case.file}.toml", [], ROOT, with_files=False)
    node = pipeline.nodes["rl"]
    recipe = KINDS["rl"].parse(node.recipe, where="rl")
    assert isinstance(recipe, RlRecipe)
    return node, recipe


@pytest.fixture
def model(case: Case, save_config: SaveConfig) -> Shape:
    return shape.read(save_config(**case.config))


@each
def test_it_asks_for_128k_in_segments_over_rdma(case: Case) -> None:
    node, recipe = node_of(case)
    assert recipe.max_response_tokens + PROMPT == CONTEXT
    assert (recipe.phase_token_budget, recipe.max_segments, recipe.min_finished) == (16_384, 12, 7)
    assert recipe.max_segments * recipe.phase_token_budget >= recipe.max_response_tokens
    assert recipe.update.max_tokens_per_microbatch >= CONTEXT  # a longer row is refused when the stage runs
    assert recipe.transport == "rdma" and node.resources.infiniband
    assert node.resources.replicas == 0 and node.resources.etcd and not node.resources.gpus_shared


@each
def test_the_trainer_fits(case: Case, model: Shape) -> None:
    node, recipe = node_of(case)
    machine = Machine(node.resources.gpus, case.gpu, case.gpu_memory_gb, distributed_optimizer=False)
    wanted = asked("rl", recipe, node.resources.layout, distributed_optimizer=False)
    assert wanted is not None
    found = find(model, wanted, machine)
    assert found.problem == ""
    assert found.ways[0].needed_bytes <= machine.memory_bytes


@each
def test_a_sampler_has_room_for_whole_responses(case: Case, model: Shape) -> None:
    resources = node_of(case)[0].resources
    tensor = case.sampler_tensor
    assert resources.sampler_tensor in (1, tensor)  # 1 where they are started elsewhere
    assert model.num_heads % tensor == 0 == model.num_groups % tensor
    cache = 2 * model.num_layers * model.group_width * BF16 / tensor * CONTEXT  # of one response, on a GPU
    taken = BF16 * model.num_parameters / tensor + WHOLE_RESPONSES * cache
    assert taken <= resources.sampler_memory_share * case.gpu_memory_gb * GIB


def test_the_weights_on_their_way_fit_the_first_host(save_config: SaveConfig) -> None:
    resources = node_of(CASES[1])[0].resources
    channel = BF16 * shape.read(save_config()).num_parameters
    assert channel <= 0.1 * resources.memory_gb * GIB
    assert resources.layout.world == resources.gpus
    assert resources.gpus % RANKS_ON_HOST == 0
