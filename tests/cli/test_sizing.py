"""`k15 size`: tables, proposals and refusals; no store and no service is needed."""

import json

import pytest

from tests.sizing.conftest import QWEN3_32B

EIGHT_BILLION = QWEN3_32B | {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
}
LONG = (
    *("--set", "nodes.sft.recipe.max_tokens=32768"),
    *("--set", "nodes.sft.recipe.max_tokens_per_microbatch=32768"),
    *("--set", "nodes.sft.recipe.precision=bfloat16"),
    *("--node", "sft"),
)
AGAIN = ("--set", "nodes.sft.recipe.recompute=true")
FULL = ("--gpus", "64", "--gpu-memory", "80", "--recipe", "full")
ON_EIGHT = ("--gpus", "8", "--gpu-memory", "80")


@pytest.fixture
def model(tmp_path):
    """The config.json of an 8B model."""
    (tmp_path / "config.json").write_text(json.dumps(EIGHT_BILLION))
    return str(tmp_path)


@pytest.fixture
def large(tmp_path):
    """The config.json of a 32B model."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_32B))
    return str(tmp_path)


def test_layouts_are_proposed_fastest_first(k15, model):
    anything = ("--layout", "any")
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, *anything)
    assert ran.code == 0, ran.err
    assert "qwen3, 8.19B parameters, on 8 × h100 of 80 GB" in ran.out
    assert "sft: rows of 32,768 tokens" in ran.out and "possible layouts fit" in ran.out
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, *anything, "--json", "--show", "100")
    (stage,) = ran.json["stages"]
    steps = [one["seconds"]["step"] for one in stage["fitting"]]
    assert steps == sorted(steps) and len(steps) == stage["num_fitting"] > 1
    assert all(one["bytes"]["needed"] <= 80 * 2**30 for one in stage["fitting"])


def test_every_stage_that_trains_is_sized(k15, model):
    nodes = ("pretrain", "activate", "sft", "longcot", "rl", "short", "control")
    precision = [word for name in nodes for word in ("--set", f"nodes.{name}.recipe.precision=bfloat16")]
    ran = k15("size", "--model", model, *ON_EIGHT, *precision, "--layout", "any", "--json")
    assert ran.code == 0, ran.err
    assert {stage["node"] for stage in ran.json["stages"]} == set(nodes)


def test_the_full_recipe_fits_the_gpus_it_names(k15, large):
    ran = k15("size", "--model", large, *FULL, "--json")
    assert ran.code == 0, ran.err
    for stage in ran.json["stages"]:
        assert stage["asked"][0]["bytes"]["needed"] <= 80 * 2**30, stage["node"]


@pytest.mark.parametrize("node", ["activate", "sft", "rl"])
def test_the_recipe_s_own_recomputation_is_checked(k15, large, node):
    ran = k15("size", "--model", large, *FULL, "--set", f"nodes.{node}.recipe.recompute=false")
    assert ran.code == 2
    assert f"{node}: tensor=8" in ran.err and "with recompute = true in the recipe" in ran.err
    assert "it fits; the fastest that fits is tensor=" in ran.err


def test_a_node_without_a_layout_is_one_process(k15, model):
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, *AGAIN)
    assert ran.code == 2
    assert "sft: one process is for 1 of the 8 GPUs; one process needs" in ran.err
    assert "the fastest that fits is tensor=" in ran.err


def test_float32_is_refused_as_the_trainer_would_on_a_gpu(k15, model):
    single = ("--set", "nodes.sft.recipe.precision=float32")
    asked = ("--layout", "tensor=4,context=2,sequence=true")
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, *AGAIN, *single, *asked)
    assert ran.code == 2 and 'precision = "float32" is refused on GPUs; set "bfloat16"' in ran.err
    assert "in float32" in ran.out and "layouts that fit, in bfloat16" in ran.out


def test_the_layout_asked_for_is_checked(k15, model):
    asked = ("--layout", "tensor=4,context=2,sequence=true")
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, *asked)
    assert ran.code == 0 and "tensor=4 context=2 sequence" in ran.out
    (stage,) = k15("size", "--model", model, *ON_EIGHT, *LONG, *asked, "--json").json["stages"]
    assert [one["recompute"] for one in stage["asked"]] == [False, True]


def test_a_layout_that_fits_with_recomputation_alone_is_refused_without(k15, model):
    asked = ("--layout", "tensor=2,context=4,sequence=true")
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, *asked)
    assert ran.code == 2
    assert "with recompute = true in the recipe" in ran.err and "it fits" in ran.err
    assert k15("size", "--model", model, *ON_EIGHT, *LONG, *AGAIN, *asked).code == 0


def test_data_parallelism_fills_the_gpus_up(k15, model):
    asked = ("--layout", "tensor=4,sequence=true", "--json")
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, *AGAIN, *asked)
    (stage,) = ran.json["stages"]
    assert stage["asked"][0]["layout"]["data"] == 2


def test_the_recipe_s_own_layout_is_checked(k15, model):
    own = ("--set", "nodes.sft.resources.layout={tensor=3}")
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, *own)
    assert ran.code == 2
    assert "sft: tensor=3 is for 3 of the 8 GPUs" in ran.err
    assert "tensor=3 does not divide the model's 32 attention heads" in ran.err
    assert "the fastest that fits is tensor=" in ran.err


def test_a_layout_that_cannot_fit_is_refused_with_a_proposal(k15, model):
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, *AGAIN, "--layout", "data=8")
    assert ran.code == 2 and "Traceback" not in ran.err
    assert "sft: data=8 needs" in ran.err and "of 80 GB even with recomputation" in ran.err
    assert "the fastest that fits is tensor=" in ran.err


def test_where_nothing_fits_the_command_says_what_would(k15, model):
    ran = k15("size", "--model", model, "--gpus", "2", "--gpu-memory", "40", *LONG, "--layout", "any")
    assert ran.code == 2
    assert "no layout of 2 GPUs fits: the leanest" in ran.err and "GPUs would do" in ran.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--gpus", "0"), "--gpus 0"),
        (("--gpu-memory", "-1"), "--gpu-memory -1"),
        (("--node", "data"), "--node data: no such stage that trains"),
        (("--layout", "tensor:8"), "--layout tensor:8: write it as"),
        (("--layout", "tensors=8"), "--layout: tensors: unknown key"),
        (("--recipe", "nowhere.toml"), "nowhere.toml"),
        (("--model", "/nowhere"), "/nowhere/config.json: no such file"),
    ],
)
def test_bad_input_is_named(k15, model, arguments, named):
    ran = k15("size", "--model", model, *ON_EIGHT, *arguments)
    assert ran.code == 2 and named in ran.err


def test_data_files_need_not_be_here(k15, large):
    ran = k15("size", "--model", large, *FULL, "--set", "files_root=/nowhere")
    assert ran.code == 0, ran.err
