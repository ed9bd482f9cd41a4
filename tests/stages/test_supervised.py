"""The supervised stages' bodies on real Megatron, with inputs and outputs in local folders."""

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from safetensors.torch import load_file

from k15.engines.megatron.profiler import TRACED_STEPS
from k15.recipes.activation import ActivateRecipe
from k15.recipes.pipeline import Resources
from k15.recipes.supervised import LongCotRecipe, Optimizer, PretrainRecipe, SftRecipe
from k15.stage import StageStopped
from k15.store.tables import Demonstration, demonstrations_to_table, text_to_table
from k15.tasks.rows import split, text_rows
from k15.tasks.tokenizer import load_tokenizer
from stages import activate, longcot, pretrain, sft
from stages.rows import EVERYTHING, read_role, tables
from tests.stages.local import ADDITIONS, LocalContext, LocalInput

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")]
FAST = Optimizer(lr=3e-3, final_lr=1e-3, warmup_steps=2)


@pytest.fixture
def demonstrations() -> LocalInput:
    rows = [Demonstration(f"{a} + {b} =", str(a + b), "direct", "sum") for a, b in ADDITIONS]
    return LocalInput(tables={"demonstrations.parquet": demonstrations_to_table(rows)})


@pytest.fixture
def texts() -> LocalInput:
    return LocalInput(tables={"text.parquet": text_to_table([f"{a} + {b} = {a + b}" for a, b in ADDITIONS])})


def weights(context: LocalContext) -> dict[str, torch.Tensor]:
    return load_file(context.parts["model"] / "model.safetensors")


@pytest.mark.parametrize(("stage", "recipe_type"), [(sft, SftRecipe), (longcot, LongCotRecipe)])
def test_demonstrations_are_fitted_and_the_same_seed_gives_the_same_weights(
    model: LocalInput, demonstrations: LocalInput, tmp_path: Path, stage: Any, recipe_type: Any
) -> None:
    ends = []
    for number, seed in enumerate((0, 0, 1)):
        context = LocalContext({"model": model, "data": demonstrations}, tmp_path / f"run-{number}")
        stage.body(context, recipe_type(seed=seed, steps=25, examples_per_step=16, optimizer=FAST))
        ends.append(weights(context))
        assert [row["step"] for row in context.rows] == list(range(25))
        assert context.rows[-1]["loss"] < 0.8 * context.rows[0]["loss"]
        assert context.summary["num_rows"] == 144
        assert (context.parts["model"] / "tokenizer.json").is_file()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not all(torch.equal(ends[0][name], ends[2][name]) for name in ends[0])


def test_rows_of_several_tables_are_named_by_file_row_and_span(tmp_path: Path, model: LocalInput) -> None:
    texts = [["1 + 1 = 2"], ["2 + 3 = 5", "1 + 2 = 3, 3 + 3 = 6, 6 + 6 = 12"]]
    data = LocalInput(tables={f"{n}.parquet": text_to_table(some) for n, some in enumerate(texts)})
    context = LocalContext({"data": data}, tmp_path / "run")
    tokenizer = load_tokenizer(model.directory)
    file = read_role(context, "data", tokenizer, EVERYTHING, shape=partial(split, max_tokens=16))
    length = len(text_rows(tokenizer, texts[1])[1])
    names = [file.name(index, 0, file.lengths[index]) for index in range(len(file))]
    assert length > 16
    assert names[0].startswith("0.parquet row 0 tokens 0:")
    assert names[1].startswith("1.parquet row 0 tokens 0:")
    assert names[2:4] == ["1.parquet row 1 tokens 0:16", f"1.parquet row 1 tokens 15:{min(31, length)}"]


def test_pretraining_fits_documents(model: LocalInput, texts: LocalInput, tmp_path: Path) -> None:
    known = Resources(peak_tflops=10.0)
    context = LocalContext({"model": model, "data": texts}, tmp_path / "run", resources=known)
    pretrain.body(context, PretrainRecipe(steps=15, examples_per_step=16, optimizer=FAST))
    assert context.summary["loss"] < context.summary["first_loss"]
    assert all(0 < row["mfu"] < 1 for row in context.rows)


def test_activation_trains_at_each_length_and_writes_base_and_positions(
    model: LocalInput, texts: LocalInput, tmp_path: Path
) -> None:
    phases = [
        {"length": 64, "steps": 3, "sequences_per_step": 2},
        {"length": 96, "steps": 2, "sequences_per_step": 2},
    ]
    context = LocalContext({"model": model, "data": texts, "heldout": texts}, tmp_path / "run")
    activate.body(context, ActivateRecipe.parse({"phases": phases, "evaluate_every_steps": 3}, where="test"))
    assert ["heldout_loss" in row for row in context.rows] == [False, False, True, False, True]
    config = json.loads((context.parts["model"] / "config.json").read_text())
    assert config["max_position_embeddings"] == 96
    assert config["rope_parameters"]["rope_theta"] == 1e6
    assert context.summary["steps"] == 5


def test_a_phase_larger_than_a_microbatch_is_refused(
    model: LocalInput, texts: LocalInput, tmp_path: Path
) -> None:
    values = {
        "phases": [{"length": 96, "steps": 1, "sequences_per_step": 1}],
        "max_tokens_per_microbatch": 64,
    }
    context = LocalContext({"model": model, "data": texts}, tmp_path / "run")
    with pytest.raises(ValueError, match="max_tokens_per_microbatch=64 is less than a phase of 96"):
        activate.body(context, ActivateRecipe.parse(values, where="test"))


def test_long_examples_are_refused_not_cut(
    model: LocalInput, demonstrations: LocalInput, tmp_path: Path
) -> None:
    context = LocalContext({"model": model, "data": demonstrations}, tmp_path / "run")
    with pytest.raises(ValueError, match="rows have more than max_tokens=8 tokens"):
        sft.body(context, SftRecipe(steps=1, max_tokens=8))
    rows = [Demonstration("1 + 1 =", "2 " * 80, "direct", "sum")]
    data = LocalInput(tables={"demonstrations.parquet": demonstrations_to_table(rows)})
    context = LocalContext({"model": model, "data": data}, tmp_path / "again")
    with pytest.raises(ValueError, match="for the model's positions"):
        sft.body(context, SftRecipe(steps=1))


@pytest.fixture
def named(demonstrations: LocalInput) -> dict[str, LocalInput]:
    """Two data sets by name: sums, and sums of larger numbers."""
    rows = [
        Demonstration(f"{a} + {b} =", str(a + b), "direct", "sum") for a in range(50, 60) for b in range(9)
    ]
    large = LocalInput(tables={"demonstrations.parquet": demonstrations_to_table(rows)})
    return {"data.small": demonstrations, "data.large": large}


def test_phases_pack_mix_and_go_on_with_rates_of_their_own(
    model: LocalInput, named: dict[str, LocalInput], tmp_path: Path
) -> None:
    phases = [
        {
            "name": "mixed",
            "steps": 4,
            "max_tokens": 32,
            "sequences_per_step": 4,
            "mixture": {"small": 0.5, "large": 0.5},
            "lr": 2e-3,
            "final_lr": 1e-3,
            "warmup_steps": 0,
        },
        {
            "name": "epoch",
            "epochs": 1,
            "max_tokens": 64,
            "sequences_per_step": 8,
            "lr": 1e-3,
            "warmup_steps": 1,
        },
    ]
    context = LocalContext({"model": model, **named}, tmp_path / "run")
    sft.body(context, SftRecipe.parse({"phases": phases}, where="test"))
    mixed, epoch = context.written["mixture.json"]["phases"]
    assert (mixed["phase"], mixed["steps"], epoch["phase"]) == ("mixed", 4, "epoch")
    assert {name: values["examples"] for name, values in epoch["data"].items()} == {"small": 144, "large": 90}
    assert [row["lr"] for row in context.rows[3:5]] == pytest.approx([1e-3, 1e-3])
    assert context.rows[0]["lr"] == pytest.approx(2e-3)
    assert len(context.rows) == 4 + epoch["steps"] == context.summary["steps"]
    assert min(mixed["fill"], epoch["fill"]) == context.summary["fill"] > 0.8
    assert context.rows[-1]["loss"] < context.rows[0]["loss"]


def test_documents_over_the_length_are_split_where_that_is_asked_for(
    model: LocalInput, tmp_path: Path
) -> None:
    data = LocalInput(tables={"text.parquet": text_to_table(["1 + 2 = 3\n" * 20, "4 + 5 = 9"])})
    context = LocalContext({"model": model, "data": data}, tmp_path / "refused")
    with pytest.raises(ValueError, match="1 of 2 rows have more than max_tokens=32"):
        pretrain.body(context, PretrainRecipe(steps=1, max_tokens=32))
    context = LocalContext({"model": model, "data": data}, tmp_path / "split")
    pretrain.body(context, PretrainRecipe(epochs=1, max_tokens=32, sequences_per_step=2, longer="split"))
    counted = context.written["mixture.json"]["phases"][0]["data"]["data"]
    assert counted["examples"] == context.summary["num_rows"] > 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            pyarrow.table({"prompt": ["a"], "answer": ["b"]}),
            r"local://input/demonstrations.parquet: columns .*",
        ),
        (
            pyarrow.table({"prompt": ["a"], "response": pyarrow.array([None], pyarrow.string())}),
            "row 0 has an",
        ),
        (demonstrations_to_table([]), "local://input: there is nothing to train on"),
    ],
)
def test_a_wrong_table_is_refused_before_any_step(
    model: LocalInput, tmp_path: Path, table: pyarrow.Table, message: str
) -> None:
    data = LocalInput(tables={"demonstrations.parquet": table})
    context = LocalContext({"model": model, "data": data}, tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        sft.body(context, SftRecipe(steps=1))
    assert context.rows == []


def test_the_tables_of_an_input_are_its_parquet_files_or_a_lone_file_of_the_users() -> None:
    def of(*paths: str) -> list[str]:
        return list(tables(LocalInput(tables=dict.fromkeys(paths))))  # type: ignore[arg-type]

    assert of("b.parquet", "a.parquet", "metrics.jsonl", "deep/notes.txt") == ["a.parquet", "b.parquet"]
    assert of("9f86d081884c7d65") == [""]
    with pytest.raises(ValueError, match="no table to train on; name the part that holds one"):
        of("sft/demonstrations.parquet", "train/prompts.parquet")
    with pytest.raises(ValueError, match=r"1 of its 2 tables lie in folders within it: \['deep/c.parquet'\]"):
        of("a.parquet", "deep/c.parquet")


def test_roles_and_mixtures_must_meet(
    model: LocalInput, named: dict[str, LocalInput], tmp_path: Path
) -> None:
    cases: list[tuple[dict[str, LocalInput], dict[str, Any], str]] = [
        ({}, {}, "inputs.data: missing"),
        (named | {"data": named["data.small"]}, {}, "inputs.data: there are data.<name> too"),
        (named, {"mixture": {"huge": 1.0}}, "mixture names 'huge', but there is no input data.huge"),
        (named, {"mixture": {"small": 1.0}}, "data set 'large': no phase's mixture names it"),
        (named, {"max_tokens_per_microbatch": 8}, "a row has .* raise max_tokens_per_microbatch=8"),
    ]
    for number, (inputs, values, message) in enumerate(cases):
        context = LocalContext({"model": model, **inputs}, tmp_path / f"run-{number}")
        with pytest.raises(ValueError, match=message):
            sft.body(context, SftRecipe.parse({"steps": 1, **values}, where="test"))


def test_a_stage_told_to_stop_writes_no_model_and_goes_on_from_its_step(
    model: LocalInput, demonstrations: LocalInput, tmp_path: Path
) -> None:
    recipe = SftRecipe(steps=5, examples_per_step=4)
    inputs = {"model": model, "data": demonstrations}
    whole = LocalContext(inputs, tmp_path / "whole")
    sft.body(whole, recipe)
    stopped = LocalContext(inputs, tmp_path / "run", stop_after=2)
    with pytest.raises(StageStopped, match="after step 2 of 5"):
        sft.body(stopped, recipe)
    assert stopped.parts == {}
    resumed = LocalContext(inputs, tmp_path / "again", steps=stopped.steps)
    sft.body(resumed, recipe)
    assert weights(resumed).keys() == weights(whole).keys()
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())
    for ours, theirs in zip(resumed.rows, whole.rows, strict=True):
        assert ours | {"tokens_per_s": 0} == theirs | {"tokens_per_s": 0}
    assert resumed.summary["num_tokens"] == whole.summary["num_tokens"]


def test_a_damaged_or_foreign_checkpoint_is_refused(
    model: LocalInput, demonstrations: LocalInput, tmp_path: Path
) -> None:
    recipe = SftRecipe(steps=3, examples_per_step=4)
    inputs = {"model": model, "data": demonstrations}
    context = LocalContext(
        inputs, tmp_path / "run", stop_after=2, resources=Resources(checkpoint_every_steps=1)
    )
    with pytest.raises(StageStopped):
        sft.body(context, recipe)
    assert context.steps is not None
    assert [record.number for record in context.steps.kept] == [1, 2]
    shard = tmp_path / "run" / "steps" / "2" / "trainer" / "weights" / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9])
    remedy = "to go on without this checkpoint, delete local://steps/2$"
    with pytest.raises(ValueError, match=f"weights/model.safetensors.*{remedy}"):
        sft.body(LocalContext(inputs, tmp_path / "truncated", steps=context.steps), recipe)
    context.steps.kept[-1].state = {"total": 1}
    with pytest.raises(ValueError, match=f"not the state of a supervised run.*{remedy}"):
        sft.body(LocalContext(inputs, tmp_path / "foreign", steps=context.steps), recipe)


def test_held_out_rows_are_evaluated_and_change_nothing(
    model: LocalInput, demonstrations: LocalInput, tmp_path: Path
) -> None:
    inputs = {"model": model, "data": demonstrations}
    plain = LocalContext(inputs, tmp_path / "plain")
    sft.body(plain, SftRecipe(steps=3, examples_per_step=4))
    held = LocalContext(inputs | {"heldout": demonstrations}, tmp_path / "held")
    sft.body(held, SftRecipe(steps=3, examples_per_step=4, evaluate_every_steps=2))
    assert ["heldout_loss" in row for row in held.rows] == [False, True, True]
    assert held.summary["heldout_loss"] == held.rows[-1]["heldout_loss"] < held.rows[1]["heldout_loss"]
    assert all(torch.equal(tensor, weights(held)[name]) for name, tensor in weights(plain).items())
    with pytest.raises(ValueError, match="evaluate_every_steps=2 and no input `heldout`"):
        sft.body(LocalContext(inputs, tmp_path / "a"), SftRecipe(steps=3, evaluate_every_steps=2))
    with pytest.raises(ValueError, match="evaluate_every_steps=0 and an input `heldout`"):
        sft.body(LocalContext(inputs | {"heldout": demonstrations}, tmp_path / "b"), SftRecipe(steps=3))


def test_a_profiled_run_leaves_a_trace_and_the_same_weights(
    model: LocalInput, demonstrations: LocalInput, tmp_path: Path
) -> None:
    inputs = {"model": model, "data": demonstrations}
    plain = LocalContext(inputs, tmp_path / "plain")
    sft.body(plain, SftRecipe(steps=7, examples_per_step=4))
    traced = LocalContext(inputs, tmp_path / "traced", resources=Resources(profile=True))
    sft.body(traced, SftRecipe(steps=7, examples_per_step=4))
    events = json.loads(gzip.decompress((traced.parts["profile"] / "trace.json.gz").read_bytes()))
    regions = [event for event in events["traceEvents"] if event.get("name") == "supervised_step"]
    assert len(regions) == TRACED_STEPS
    assert "aten::mm" in (traced.parts["profile"] / "operators.txt").read_text()
    assert all(torch.equal(tensor, weights(traced)[name]) for name, tensor in weights(plain).items())
