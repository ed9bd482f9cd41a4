"""Which prompts an RL stage poses."""

from pathlib import Path

import pytest

from k15.recipes.rl import RlRecipe
from k15.records import Part, Prompt
from k15.store.tables import prompts_to_table
from k15.tasks.tokenizer import load_tokenizer
from stages.rl import posed
from tests.stages.local import LocalContext, LocalInput, save_model

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model")


def context(folder: Path, *lengths: int) -> LocalContext:
    """A stage whose prompts are sums of so many terms."""
    rows = [
        Prompt(f"p{n}", (Part("text", " + ".join("1" * length)),), str(length), "sum", 0.0, "math")
        for n, length in enumerate(lengths)
    ]
    tables = {"prompts.parquet": prompts_to_table(rows)}
    return LocalContext({"prompts": LocalInput(tables=tables)}, folder / "scratch")


def test_a_prompt_longer_than_the_context_is_left_out_and_listed(model: Path, tmp_path: Path) -> None:
    ctx, recipe = context(tmp_path, 2, 40, 3), RlRecipe.parse({"max_response_tokens": 40}, where="test")
    prompts, encoded, excluded = posed(ctx, recipe, model, load_tokenizer(model))  # type: ignore[arg-type]
    assert list(prompts) == list(encoded) == ["p0", "p2"]
    (row,) = excluded
    assert row["prompt_id"] == "p1" and row["tokens"] > 24 and "context" in row["reason"]


def test_where_no_prompt_fits_nothing_runs(model: Path, tmp_path: Path) -> None:
    ctx, recipe = context(tmp_path, 30, 40), RlRecipe.parse({"max_response_tokens": 60}, where="test")
    with pytest.raises(ValueError, match="none of 2 prompts fits: the model's context leaves 4 tokens"):
        posed(ctx, recipe, model, load_tokenizer(model))  # type: ignore[arg-type]
