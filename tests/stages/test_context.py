"""The corpus and the long-context evaluation as stages, with inputs and outputs in local folders."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest

from k15.recipes.context import ContextRecipe, CorpusRecipe
from k15.recipes.data import BaseRecipe
from k15.recipes.pipeline import Resources
from k15.tasks.tokenizer import train_tokenizer
from stages import context, corpus
from stages.base import random_qwen

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")]
KIND = {"count": 12, "length": 64, "least_facts": 2, "most_facts": 5, "lookups": 6}
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 1,
    "head_dim": 16,
    "num_attention_heads": 2,
}


@dataclass
class LocalOut:
    """What a stage writes, by path."""

    written: dict[str, Any] = field(default_factory=dict)

    def write_table(self, path: str, table: pyarrow.Table) -> None:
        self.written[path] = table

    def write_json(self, path: str, value: Any) -> None:
        self.written[path] = json.loads(json.dumps(value))

    def write_bytes(self, path: str, data: bytes) -> None:
        self.written[path] = data


def local_context(tmp_path: Path, **models: Path) -> Any:
    """What the bodies use of StageContext."""

    def opened(directory: Path) -> Any:
        return SimpleNamespace(download=lambda target: Path(shutil.copytree(directory, target)))

    return SimpleNamespace(
        inputs={f"model.{name}": opened(directory) for name, directory in models.items()},
        scratch=tmp_path / "scratch",
        job=SimpleNamespace(resources=Resources(cores=1)),
        out=LocalOut(),
        summary={},
        licenses={},
        progress=lambda done, total, what: None,
    )


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    ctx = local_context(tmp_path)
    corpus.body(ctx, CorpusRecipe.parse({"parts": {"short": [KIND], "mixed": [KIND, KIND]}}, where="corpus"))
    assert set(ctx.out.written) == {"short/text.parquet", "mixed/text.parquet"}
    assert ctx.summary == {"short": 12.0, "mixed": 24.0}
    short, mixed = (
        ctx.out.written[f"{part}/text.parquet"]["text"].to_pylist() for part in ("short", "mixed")
    )
    assert len({*short, *mixed}) == 36
    return [*short, *mixed]


@pytest.fixture
def model(tmp_path: Path, texts: list[str]) -> Path:
    tokenizer = train_tokenizer(texts, 700, "words")
    recipe = BaseRecipe.parse({**SHAPE, "family": "qwen2", "max_position_embeddings": 64}, where="base")
    random_qwen(recipe, tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_models_are_compared_beyond_their_positions_and_with_another_base(
    model: Path, tmp_path: Path
) -> None:
    ctx = local_context(tmp_path, plain=model, same=model, changed=model)
    values = {"lengths": [64, 256], "documents": 3, "lookups": 4, "rope_bases": {"changed": 1e6}}
    context.body(ctx, ContextRecipe.parse(values, where="context"))
    report = ctx.out.written["context.json"]
    assert [found["name"] for found in report["models"]] == ["plain", "same", "changed"]
    plain, same, _ = (found["tasks"] for found in report["models"])
    assert plain == same
    for task in plain:
        assert [figures["length"] for figures in task["lengths"]] == [64, 256]
        assert sum(task["lengths"][1]["num_by_depth"]) == 12
    assert ctx.summary["plain_retrieval_usable_tokens"] == 0.0
    assert b"<svg" in ctx.out.written["heatmap.html"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_bases": {"other": 1e6}}, "rope_bases: other: not among the models plain"),
        ({"max_tokens_per_microbatch": 32}, "max_tokens_per_microbatch=32 is less than a length of 64"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    ctx = local_context(tmp_path, plain=tmp_path)
    with pytest.raises(ValueError, match=message):
        context.body(ctx, ContextRecipe.parse({"lengths": [64], **values}, where="context"))
    with pytest.raises(ValueError, match="no model to evaluate"):
        context.body(local_context(tmp_path), ContextRecipe.parse({"lengths": [64]}, where="context"))
