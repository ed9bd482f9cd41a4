"""SFT on demonstrations (METHOD.md §7): loss on responses only, no attention between packed examples.

python -m stages.sft --job s3://bucket/jobs/…json
"""

from k15.recipes.supervised import SftRecipe
from k15.stage import StageContext, run_stage
from stages.supervised import demonstration_rows, fit_rows


def body(ctx: StageContext, recipe: SftRecipe) -> None:
    """Fit input `model` to the demonstrations of input `data`."""
    fit_rows(ctx, recipe, demonstration_rows)


if __name__ == "__main__":
    run_stage(SftRecipe, body)
