# services: local
"""Long-context activation in miniature: three seeds named beforehand, with both controls, through the stages.

Each seed is a whole pipeline (its own documents, weights, order). Retrieval is greedy accuracy of look-ups;
`before` and `after` are those of the earliest quarter of the records in documents of 4 × the pretraining
length, which lie outside the trained window. Prints every seed and the means; writes
out/bench/activation.json. `make bench NAME=activation`; what is done is not redone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from k15.store.artifact import Store
from k15.store.local import environment
from k15.store.plan import load_pipeline
from k15.store.runs import latest_run

SEEDS = (0, 1, 2)  # named before the first result; every node's own seed
RECIPE = Path("recipes/activation/pipeline.toml")
SHORT, LONG, LONGEST = 256, 1024, 2048  # the pretraining length, 4 × and 8 × of it
TASK = "retrieval"
FIGURES = (
    "before_percent",  # 4 ×, earliest quarter, pretrained
    "base_change_percent",  # control: the new RoPE base without training
    "short_training_percent",  # control: the same tokens at the short length
    "after_percent",  # 4 ×, earliest quarter, activated
    "worst_depth_percent",  # 4 ×, the worst quarter, activated
    "short_loss_points",  # pretraining length, pretrained minus activated
    "before_8x_percent",
    "base_change_8x_percent",
    "short_training_8x_percent",
    "after_8x_percent",
)


def main() -> int:
    """Run every seed, print the tables, write the figures."""
    root = Path.cwd()
    env = {**os.environ, **environment(root, os.environ)}
    store = Store.from_environment(env)
    nodes = load_pipeline(RECIPE, (), root).nodes
    rows = []
    for seed in SEEDS:
        overrides = [f"--set=nodes.{name}.recipe.seed={seed}" for name in nodes]
        done = subprocess.run(
            [sys.executable, "-m", "k15.cli.main", "run", str(RECIPE), *overrides], check=False
        )
        if done.returncode:
            return done.returncode
        report = context_report(store)
        print_depths(report, seed)
        rows.append({"seed": float(seed)} | figures(report))
    means = {name: fmean(row[name] for row in rows) for name in FIGURES}
    print_table(rows, means)
    flat = dict(means)
    for row in rows:
        flat |= {f"seed_{int(row['seed'])}_{name}": row[name] for name in FIGURES}
    target = root / "out" / "bench" / "activation.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(flat, indent=1))
    return 0


def context_report(store: Store) -> dict[str, Any]:
    """context.json of the newest run."""
    run = latest_run(store)
    manifest = store.manifest(run.nodes["context"].key)
    if manifest is None:
        raise ValueError(f"run {run.run_id} has no long-context evaluation in the store")
    report: dict[str, Any] = store.open(manifest.ref()).read_json("context.json")
    return report


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """The issue's figures of one seed, in percent and points."""
    found = {
        model["name"]: {
            row["length"]: row for task in model["tasks"] if task["task"] == TASK for row in task["lengths"]
        }
        for model in report["models"]
    }

    def earliest(model: str, length: int) -> float:
        return 100 * float(found[model][length]["by_depth"][0])

    names = {"before": "pretrained", "base_change": "base_change", "short_training": "short_training"}
    values = {f"{label}_percent": earliest(model, LONG) for label, model in names.items()}
    values |= {f"{label}_8x_percent": earliest(model, LONGEST) for label, model in names.items()}
    lost = found["pretrained"][SHORT]["accuracy"] - found["activated"][SHORT]["accuracy"]
    return values | {
        "after_percent": earliest("activated", LONG),
        "after_8x_percent": earliest("activated", LONGEST),
        "worst_depth_percent": 100 * float(found["activated"][LONG]["worst_depth"]),
        "short_loss_points": 100 * float(lost),
    }


def print_depths(report: Mapping[str, Any], seed: int) -> None:
    """Every model of one seed: accuracy by length, and by depth from the start of a document."""
    for model in report["models"]:
        for task in model["tasks"]:
            cells = [
                f"{row['length']}: {_percent(row['accuracy'])} ({' '.join(map(_percent, row['by_depth']))})"
                for row in task["lengths"]
            ]
            print(f"seed {seed}  {task['task']:<10} {model['name']:<15} {'   '.join(cells)}", flush=True)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"


def print_table(rows: list[dict[str, float]], means: dict[str, float]) -> None:
    """Every seed and the means, a figure a line."""
    print(f"\n{'':26}" + "".join(f"seed {int(row['seed'])}".rjust(9) for row in rows) + "     mean")
    for name in FIGURES:
        print(f"{name:26}" + "".join(f"{row[name]:9.1f}" for row in rows) + f"{means[name]:9.1f}")


if __name__ == "__main__":
    sys.exit(main())
