"""Pretraining: next-token prediction on every token of the documents.

python -m stages.pretrain --job s3://bucket/jobs/…json
"""

from k15.recipes.supervised import PretrainRecipe
from k15.stage import StageContext, run_stage
from stages.supervised import document_rows, fit_rows


def body(ctx: StageContext, recipe: PretrainRecipe) -> None:
    """Fit input `model` to the documents of input `data`."""
    fit_rows(ctx, recipe, document_rows)


if __name__ == "__main__":
    run_stage(PretrainRecipe, body)
