"""Weight merging (METHOD.md §8): the average of a long-CoT and a short-CoT model.

python -m stages.merge --job s3://bucket/jobs/…json
"""

from collections.abc import Iterator

from torch import Tensor

from k15.algo.merging import average
from k15.engines.megatron.checkpoint import Checkpoint, read_config, save
from k15.recipes.rl import MergeRecipe
from k15.stage import StageContext, run_stage


def body(ctx: StageContext, recipe: MergeRecipe) -> None:
    """Average tensor by tensor; ValueError where the two models differ in names or shapes."""
    directories = [ctx.inputs[role].download(ctx.scratch / role) for role in ("long", "short")]
    long, short = (Checkpoint(directory) for directory in directories)
    if odd := sorted(long.names ^ short.names):
        raise ValueError(f"the two models do not have the same tensors, so they cannot be merged: {odd[:5]}")

    def averaged() -> Iterator[tuple[str, Tensor]]:
        for number, name in enumerate(sorted(long.names)):
            ctx.progress(number, len(long.names), "tensors")
            yield name, average(long.tensor(name), short.tensor(name), weight=recipe.long_weight)

    merged = ctx.scratch / "merged"
    save(merged, averaged(), config=read_config(directories[0]), companions=directories[0])
    ctx.out.add_directory("model", merged)
    ctx.summary["num_tensors"] = len(long.names)


if __name__ == "__main__":
    run_stage(MergeRecipe, body)
