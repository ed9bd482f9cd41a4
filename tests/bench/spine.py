# services: local
"""RL and the length reward on the tiny recipe: three seeds named beforehand, paired on held-out prompts.

Each seed is a whole pipeline (its own data, tokenizer, model); the first is `make run`'s own. Prints a row
per seed and the means; writes out/bench/spine.json. `make bench NAME=spine`; what is done is not redone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from k15.store.artifact import Store
from k15.store.local import environment
from k15.store.plan import load_pipeline
from k15.store.runs import latest_run

SEEDS = (0, 100, 200)  # named before the first result; added to every node's own seed
RECIPE = Path("recipes/tiny/pipeline.toml")
FIGURES = ("rl_gain_points", "gain_over_control_points", "length_cut_percent", "accuracy_loss_points")


def main() -> int:
    """Run every seed, print the table, write the figures."""
    root = Path.cwd()
    env = {**os.environ, **environment(root, os.environ)}
    store = Store.from_environment(env)
    nodes = load_pipeline(RECIPE, (), root).nodes
    rows = []
    for seed in SEEDS:
        overrides = [
            f"--set=nodes.{name}.recipe.seed={node.recipe.get('seed', 0) + seed}"
            for name, node in nodes.items()
            if node.kind != "merge"
        ]
        done = subprocess.run(
            [sys.executable, "-m", "k15.cli.main", "run", str(RECIPE), *overrides], check=False
        )
        if done.returncode:
            return done.returncode
        rows.append(figures_of_run(store, seed))
        print_row(rows[-1])
    means = {name: fmean(row[name] for row in rows) for name in FIGURES}
    print_table(rows, means)
    flat = dict(means)
    for row in rows:
        flat |= {f"seed_{int(row['seed'])}_{name}": value for name, value in row.items() if name != "seed"}
    target = root / "out" / "bench" / "spine.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(flat, indent=1))
    return 0


def figures_of_run(store: Store, seed: int) -> dict[str, float]:
    """The issue's figures of the newest run's evaluation."""
    run = latest_run(store)
    manifest = store.manifest(run.nodes["evaluate"].key)
    if manifest is None:
        raise ValueError(f"run {run.run_id} has no evaluation in the store")
    report = store.open(manifest.ref()).read_json("evaluation.json")
    models = {model["name"]: model for model in report["models"]}
    if min(model["n"] for model in models.values()) < 1000:
        raise ValueError("a comparison needs at least 1,000 held-out prompts")
    start, control, rl, short = (models[name] for name in ("longcot", "control", "rl", "short"))
    return {
        "seed": seed,
        "longcot_sampled": start["sampled"],
        "control_sampled": control["sampled"],
        "rl_sampled": rl["sampled"],
        "short_sampled": short["sampled"],
        "longcot_tokens": start["tokens"],
        "rl_tokens": rl["tokens"],
        "short_tokens": short["tokens"],
        "rl_gain_points": 100 * (rl["sampled"] - start["sampled"]),
        "gain_over_control_points": 100 * (rl["sampled"] - control["sampled"]),
        "length_cut_percent": 100 * (1 - short["tokens"] / rl["tokens"]),
        "accuracy_loss_points": 100 * (rl["sampled"] - short["sampled"]),
    }


def print_row(row: dict[str, float]) -> None:
    """One seed's figures as it ends."""
    print("  ".join(f"{name}={value:.3f}" for name, value in row.items()), flush=True)


def print_table(rows: list[dict[str, float]], means: dict[str, float]) -> None:
    """Every seed and the means."""
    print("\nseed  " + "  ".join(f"{name:>26}" for name in FIGURES))
    for row in rows:
        print(f"{int(row['seed']):>4}  " + "  ".join(f"{row[name]:>26.2f}" for name in FIGURES))
    print("mean  " + "  ".join(f"{means[name]:>26.2f}" for name in FIGURES))


if __name__ == "__main__":
    sys.exit(main())
