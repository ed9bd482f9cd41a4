"""The body of an SFT stage in a process of its own, over several ranks: many_ranks.py MODEL FOLDER LAYOUT"""

import json
import shutil
import sys
import warnings
from pathlib import Path

from k15.recipes.pipeline import Layout, Resources
from k15.recipes.supervised import Optimizer, SftRecipe
from k15.store.tables import Demonstration, demonstrations_to_table
from stages import sft
from tests.stages.local import ADDITIONS, LocalContext, LocalInput

RECIPE = SftRecipe(steps=3, examples_per_step=16, optimizer=Optimizer(adam_epsilon=1.0, lr=0.1))


def run(model: Path, folder: Path, layout: Layout) -> list[dict[str, float]]:
    """Fit; the model goes to FOLDER/model. Returns what was logged."""
    shown = [Demonstration(f"{a} + {b} =", str(a + b), "direct", "sum") for a, b in ADDITIONS]
    data = LocalInput(tables={"demonstrations.parquet": demonstrations_to_table(shown)})
    inputs = {"model": LocalInput(model), "data": data}
    context = LocalContext(inputs, folder, resources=Resources(layout=layout))
    sft.body(context, RECIPE)
    shutil.copytree(context.parts["model"], folder / "model")
    return context.rows


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    layout = Layout.parse(json.loads(sys.argv[3]), where="layout")
    rows = run(Path(sys.argv[1]), Path(sys.argv[2]), layout)
    print(json.dumps([row["loss"] for row in rows]))
