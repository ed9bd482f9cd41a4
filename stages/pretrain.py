"""Pretraining: next-token prediction on every token of the documents.

python -m stages.pretrain --job s3://bucket/jobs/…json
"""

from typing import Any

from k15.recipes.supervised import PretrainRecipe
from k15.records import Sequence as Row
from k15.stage import StageContext, run_stage
from k15.store.tables import text_from_table
from k15.tasks.rows import text_row
from stages.supervised import fit_rows


def body(ctx: StageContext, recipe: PretrainRecipe) -> None:
    """Fit input `model` to the documents of input `data`."""
    fit_rows(ctx, recipe, document_rows)


def document_rows(tokenizer: Any, ctx: StageContext) -> list[Row]:
    """The documents of input `data`, one a row."""
    data = ctx.inputs["data"]
    return [text_row(tokenizer, text) for text in text_from_table(data.read_table("text.parquet"), data.uri)]


if __name__ == "__main__":
    run_stage(PretrainRecipe, body)
