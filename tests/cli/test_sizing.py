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
    *("--node", "sft"),
)
ON_EIGHT = ("--gpus", "8", "--gpu-memory", "80")


@pytest.fixture
def model(tmp_path):
    """The config.json of an 8B model."""
    (tmp_path / "config.json").write_text(json.dumps(EIGHT_BILLION))
    return str(tmp_path)


def test_layouts_are_proposed_fastest_first(k15, model):
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG)
    assert ran.code == 0, ran.err
    assert "qwen3, 8.19B parameters, on 8 × h100 of 80 GB" in ran.out
    assert "sft: rows of 32,768 tokens" in ran.out and "possible layouts fit" in ran.out
    (stage,) = k15("size", "--model", model, *ON_EIGHT, *LONG, "--json", "--show", "100").json["stages"]
    steps = [one["seconds"]["step"] for one in stage["fitting"]]
    assert steps == sorted(steps) and len(steps) == stage["num_fitting"] > 1
    assert all(one["bytes"]["needed"] <= 80 * 2**30 for one in stage["fitting"])


def test_every_stage_that_trains_has_its_table(k15, model):
    stages = k15("size", "--model", model, *ON_EIGHT, "--json").json["stages"]
    assert [stage["node"] for stage in stages][:4] == ["pretrain", "activate", "sft", "longcot"]


def test_the_layout_asked_for_is_checked(k15, model):
    asked = ("--layout", "tensor=4,context=2,sequence=true")
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, *asked)
    assert ran.code == 0 and "tensor=4 context=2 sequence" in ran.out
    (stage,) = k15("size", "--model", model, *ON_EIGHT, *LONG, *asked, "--json").json["stages"]
    assert [one["recompute"] for one in stage["asked"]] == [False, True]


def test_a_layout_that_fits_with_recomputation_alone_says_so(k15, model):
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, "--layout", "tensor=2,context=4,sequence=true")
    assert ran.code == 0 and "it fits with recompute = true in the recipe" in ran.out


def test_data_parallelism_fills_the_gpus_up(k15, model):
    asked = ("--layout", "tensor=4,sequence=true")
    (stage,) = k15("size", "--model", model, *ON_EIGHT, *LONG, *asked, "--json").json["stages"]
    assert stage["asked"][0]["layout"]["data"] == 2


def test_the_recipe_s_own_layout_is_checked(k15, model):
    own = ("--set", "nodes.sft.resources.layout={tensor=3}")
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, *own)
    assert ran.code == 2
    assert "sft: tensor=3 makes 3 processes, and there are 8 GPUs" in ran.err
    assert "tensor=3 does not divide the model's 32 attention heads" in ran.err
    assert "the fastest that fits is tensor=" in ran.err


def test_a_layout_that_cannot_fit_is_refused_with_a_proposal(k15, model):
    ran = k15("size", "--model", model, *ON_EIGHT, *LONG, "--layout", "data=8")
    assert ran.code == 2 and "Traceback" not in ran.err
    assert "sft: data=8 needs" in ran.err and "of 80 GB even with recomputation" in ran.err
    assert "the fastest that fits is tensor=" in ran.err


def test_where_nothing_fits_the_command_says_what_would(k15, model):
    ran = k15("size", "--model", model, "--gpus", "2", "--gpu-memory", "40", *LONG)
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


def test_data_files_need_not_be_here(k15, model):
    ran = k15("size", "--model", model, *ON_EIGHT, "--recipe", "smollm2", "--set", "files_root=/nowhere")
    assert ran.code == 0, ran.err
