"""SFT on demonstrations (METHOD.md §7): loss on responses only, no attention between packed examples.

python -m stages.sft --job s3://bucket/jobs/…json
"""

from k15.engines.megatron import ranks
from k15.recipes.supervised import SftRecipe
from k15.stage import StageContext, run_stage
from stages.rows import RESPONSES
from stages.supervised import fit_rows


def body(ctx: StageContext, recipe: SftRecipe) -> None:
    """Fit input `model` to the demonstrations of its data sets."""
    fit_rows(ctx, recipe, RESPONSES, longer=recipe.longer)


if __name__ == "__main__":
    run_stage(SftRecipe, body, meet=ranks.meet)
