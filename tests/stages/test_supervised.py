"""The supervised stages' bodies on real Megatron, with inputs and outputs in local folders."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
import torch
from safetensors.torch import load_file

from k15.recipes.supervised import ActivateRecipe, LongCotRecipe, Optimizer, PretrainRecipe, SftRecipe
from k15.records import Sequence as Row
from k15.stage import StageStopped
from k15.store.tables import Demonstration, demonstrations_to_table, text_to_table
from k15.tasks.tokenizer import train_tokenizer
from stages import activate, longcot, pretrain, sft

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")]
ADDITIONS = [(a, b) for a in range(12) for b in range(12)]
FAST = Optimizer(lr=3e-3, final_lr=1e-3, warmup_steps=2)


@dataclass
class LocalInput:
    """An artifact's part in a folder, or one table of it."""

    directory: Path = Path()
    tables: dict[str, pyarrow.Table] = field(default_factory=dict)
    uri: str = "local://input"

    def download(self, directory: Path) -> Path:
        return Path(shutil.copytree(self.directory, directory))

    def read_table(self, path: str) -> pyarrow.Table:
        return self.tables[path]


@dataclass
class LocalContext:
    """What a body uses of StageContext; `model/` of its output is `output`."""

    inputs: dict[str, LocalInput]
    scratch: Path
    stop_after: int = 10**9
    steps: list[dict[str, float]] = field(default_factory=list)
    summary: dict[str, float] = field(default_factory=dict)
    output: Path = Path()

    def __post_init__(self) -> None:
        self.scratch.mkdir()
        self.job = SimpleNamespace(resources=SimpleNamespace(cores=1))
        self.metrics = SimpleNamespace(log=lambda step, **values: self.steps.append({"step": step, **values}))
        self.out = SimpleNamespace(add_directory=self._add)

    def _add(self, prefix: str, local: Path) -> None:
        assert prefix == "model"
        self.output = local

    def progress(self, done: int, total: int, what: str) -> None:
        assert (done <= total, what) == (True, "steps")

    def stopping(self) -> bool:
        return len(self.steps) >= self.stop_after


@pytest.fixture
def model(tmp_path: Path) -> LocalInput:
    """A tiny Qwen3 with a tokenizer of its own."""
    import transformers

    tokenizer = train_tokenizer([f"{a} + {b} = {a + b}" for a, b in ADDITIONS], 270)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    directory = tmp_path / "model"
    transformers.Qwen3ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return LocalInput(directory)


@pytest.fixture
def demonstrations() -> LocalInput:
    rows = [Demonstration(f"{a} + {b} =", str(a + b), "direct", "sum") for a, b in ADDITIONS]
    return LocalInput(tables={"demonstrations.parquet": demonstrations_to_table(rows)})


@pytest.fixture
def texts() -> LocalInput:
    return LocalInput(tables={"text.parquet": text_to_table([f"{a} + {b} = {a + b}" for a, b in ADDITIONS])})


def weights(context: LocalContext) -> dict[str, torch.Tensor]:
    return load_file(context.output / "model.safetensors")


@pytest.mark.parametrize(("stage", "recipe_type"), [(sft, SftRecipe), (longcot, LongCotRecipe)])
def test_demonstrations_are_fitted_and_the_same_seed_gives_the_same_weights(
    model: LocalInput, demonstrations: LocalInput, tmp_path: Path, stage: Any, recipe_type: Any
) -> None:
    ends = []
    for number, seed in enumerate((0, 0, 1)):
        context = LocalContext({"model": model, "data": demonstrations}, tmp_path / f"run-{number}")
        stage.body(context, recipe_type(seed=seed, steps=25, examples_per_step=16, optimizer=FAST))
        ends.append(weights(context))
        assert [row["step"] for row in context.steps] == list(range(25))
        assert context.steps[-1]["loss"] < 0.8 * context.steps[0]["loss"]
        assert context.summary["num_rows"] == 144
        assert (context.output / "tokenizer.json").is_file()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not all(torch.equal(ends[0][name], ends[2][name]) for name in ends[0])


def test_pretraining_fits_documents(model: LocalInput, texts: LocalInput, tmp_path: Path) -> None:
    context = LocalContext({"model": model, "data": texts}, tmp_path / "run")
    pretrain.body(context, PretrainRecipe(steps=15, examples_per_step=16, optimizer=FAST))
    assert context.summary["loss"] < context.summary["first_loss"]


def test_activation_trains_at_each_length_and_writes_base_and_positions(
    model: LocalInput, texts: LocalInput, tmp_path: Path
) -> None:
    phases = [
        {"length": 64, "steps": 3, "sequences_per_step": 2},
        {"length": 96, "steps": 2, "sequences_per_step": 2},
    ]
    context = LocalContext({"model": model, "data": texts}, tmp_path / "run")
    activate.body(context, ActivateRecipe.parse({"phases": phases}, where="test"))
    config = json.loads((context.output / "config.json").read_text())
    assert config["max_position_embeddings"] == 96
    assert config["rope_parameters"]["rope_theta"] == 1e6
    assert context.summary["steps"] == 5


def test_activation_mixes_full_and_short_rows_in_the_share_asked_for() -> None:
    documents = [Row((n + 1,) * 7, (False,) + (True,) * 6) for n in range(20)]
    phases = [
        {"length": 32, "steps": 10, "sequences_per_step": 4},
        {"length": 64, "steps": 5, "sequences_per_step": 2},
    ]
    recipe = ActivateRecipe.parse({"phases": phases}, where="test")
    batches = list(activate.phase_batches(documents, recipe))
    assert len(batches) == 15
    lengths = [len(row.token_ids) for batch in batches[:10] for row in batch]
    assert lengths.count(32) == 16  # 40 % of 40 sequences
    assert set(lengths) == {7, 32}
    assert lengths.count(7) == 24 * 4  # whole documents only
    assert [len(row.token_ids) for batch in batches[10:] for row in batch].count(64) == 4


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


def test_a_stage_told_to_stop_writes_no_model(
    model: LocalInput, demonstrations: LocalInput, tmp_path: Path
) -> None:
    context = LocalContext({"model": model, "data": demonstrations}, tmp_path / "run", stop_after=2)
    with pytest.raises(StageStopped, match="after step 2 of 5"):
        sft.body(context, SftRecipe(steps=5, examples_per_step=4))
    assert context.output == Path()
