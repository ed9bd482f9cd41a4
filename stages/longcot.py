"""Long-CoT SFT (METHOD.md §7): a light SFT on verified long paths.

python -m stages.longcot --job s3://bucket/jobs/…json
"""

from k15.recipes.supervised import LongCotRecipe
from k15.stage import StageContext, run_stage
from stages.supervised import demonstration_rows, fit_rows


def body(ctx: StageContext, recipe: LongCotRecipe) -> None:
    """Fit input `model` to the demonstrations of input `data`."""
    fit_rows(ctx, recipe, demonstration_rows)


if __name__ == "__main__":
    run_stage(LongCotRecipe, body)
