"""Pretraining: next-token prediction on every token of the documents.

python -m stages.pretrain --job s3://bucket/jobs/…json
"""

from k15.engines.megatron import ranks
from k15.recipes.supervised import PretrainRecipe
from k15.stage import StageContext, run_stage
from stages.rows import EVERYTHING
from stages.supervised import fit_rows


def body(ctx: StageContext, recipe: PretrainRecipe) -> None:
    """Fit input `model` to the documents of its data sets."""
    fit_rows(ctx, recipe, EVERYTHING, longer=recipe.longer)


if __name__ == "__main__":
    run_stage(PretrainRecipe, body, meet=ranks.meet)
