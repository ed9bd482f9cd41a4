"""Long-CoT SFT (METHOD.md §7): a light SFT on verified long paths.

python -m stages.longcot --job s3://bucket/jobs/…json
"""

from k15.engines.megatron import ranks
from k15.recipes.supervised import LongCotRecipe
from k15.stage import StageContext, run_stage
from stages.rows import RESPONSES
from stages.supervised import fit_rows


def body(ctx: StageContext, recipe: LongCotRecipe) -> None:
    """Fit input `model` to the demonstrations of its data sets."""
    fit_rows(ctx, recipe, RESPONSES, longer=recipe.longer)


if __name__ == "__main__":
    run_stage(LongCotRecipe, body, meet=ranks.meet)
