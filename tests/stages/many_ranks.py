"""The body of a stage in a process of its own, over several ranks.

python -m tests.stages.many_ranks fit|stop|probe FOLDER LAYOUT MODEL…

`stop` ends after two steps; `fit` goes on from the checkpoint it leaves beside FOLDER.
"""

import contextlib
import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from k15.recipes.context import ContextRecipe, ContextTask, Language
from k15.recipes.pipeline import Layout, Resources
from k15.recipes.supervised import Optimizer, SftRecipe
from k15.stage import StageStopped
from k15.store.tables import Demonstration, demonstrations_to_table
from stages import context, sft
from tests.stages.local import ADDITIONS, LocalContext, LocalInput, LocalSteps

RECIPE = SftRecipe(steps=3, examples_per_step=16, optimizer=Optimizer(adam_epsilon=1.0, lr=0.1))
PROBES = ContextRecipe(
    language=Language(num_keys=4, num_values=4),
    tasks={"retrieval": ContextTask()},
    lengths=(128,),
    documents=4,
    lookups=2,
    tokens_per_record=64,
)


def fit(
    model: Path,
    folder: Path,
    layout: Layout,
    *,
    steps: LocalSteps | None = None,
    stop_after: int = RECIPE.steps,
) -> list[dict[str, float]]:
    """Fit, from the last of `steps` on; the model goes to FOLDER/model. Returns what was logged."""
    shown = [Demonstration(f"{a} + {b} =", str(a + b), "direct", "sum") for a, b in ADDITIONS]
    data = LocalInput(tables={"demonstrations.parquet": demonstrations_to_table(shown)})
    inputs = {"model": LocalInput(model), "data": data}
    resources = Resources(layout=layout)
    ctx = LocalContext(inputs, folder, resources=resources, steps=steps, stop_after=stop_after)
    if stop_after < RECIPE.steps:
        with contextlib.suppress(StageStopped):
            sft.body(ctx, RECIPE)
        return ctx.rows
    sft.body(ctx, RECIPE)
    shutil.copytree(ctx.parts["model"], folder / "model")
    return ctx.rows


def probe(models: list[Path], folder: Path, layout: Layout) -> dict[str, Any]:
    """The long-context evaluation of several models, one after another."""
    inputs = {f"model.{number}": LocalInput(model) for number, model in enumerate(models)}
    ctx = LocalContext(inputs, folder, resources=Resources(layout=layout))
    context.body(ctx, PROBES)
    report: dict[str, Any] = ctx.written["context.json"]
    return report


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    stage, folder, layout, *models = sys.argv[1:]
    laid_out = Layout.parse(json.loads(layout), where="layout")
    paths = [Path(model) for model in models]
    if stage == "probe":
        print(json.dumps(probe(paths, Path(folder), laid_out)))
    else:
        kept = LocalSteps(Path(folder).parent / "steps")
        stop_after = 2 if stage == "stop" else RECIPE.steps
        print(json.dumps(fit(paths[0], Path(folder), laid_out, steps=kept, stop_after=stop_after)))
