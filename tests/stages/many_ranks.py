"""The body of a stage in a process of its own, over several ranks.

python -m tests.stages.many_ranks fit|probe FOLDER LAYOUT MODEL…
"""

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from k15.recipes.context import ContextRecipe, ContextTask, Language
from k15.recipes.pipeline import Layout, Resources
from k15.recipes.supervised import Optimizer, SftRecipe
from k15.store.tables import Demonstration, demonstrations_to_table
from stages import context, sft
from tests.stages.local import ADDITIONS, LocalContext, LocalInput

RECIPE = SftRecipe(steps=3, examples_per_step=16, optimizer=Optimizer(adam_epsilon=1.0, lr=0.1))
PROBES = ContextRecipe(
    language=Language(num_keys=4, num_values=4),
    tasks={"retrieval": ContextTask()},
    lengths=(128,),
    documents=4,
    lookups=2,
    tokens_per_record=64,
)


def fit(model: Path, folder: Path, layout: Layout) -> list[dict[str, float]]:
    """Fit; the model goes to FOLDER/model. Returns what was logged."""
    shown = [Demonstration(f"{a} + {b} =", str(a + b), "direct", "sum") for a, b in ADDITIONS]
    data = LocalInput(tables={"demonstrations.parquet": demonstrations_to_table(shown)})
    inputs = {"model": LocalInput(model), "data": data}
    ctx = LocalContext(inputs, folder, resources=Resources(layout=layout))
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
    done = fit(paths[0], Path(folder), laid_out) if stage == "fit" else probe(paths, Path(folder), laid_out)
    print(json.dumps(done))
