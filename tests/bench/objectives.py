# services: local
"""OMD, ReST and GRPO at equal samples on the tiny recipe: three seeds named beforehand, paired by seed.

    make bench NAME=objectives
    make bench NAME=objectives ARGS="--seeds 0 --set nodes.rl.recipe.rounds=2"      (a look)

Each seed is a pipeline of its own: data, tokenizer, model and long-CoT start of recipes/tiny, then one RL
phase for each objective from the same start, on the same prompts, with as many samples and updates. Nothing
else differs: rates and schedule are the recipe's, which were chosen for OMD, and the objectives' own settings
are their defaults. Held-out accuracy has a bootstrap interval over prompts for each seed, means over seeds
have Student's. What is done is not redone. Prints tables, writes
out/bench/objectives.json and the curves to out/bench/objectives.html.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from k15.algo.intervals import Interval, runs_interval
from k15.config import load_toml, merge, parse_override
from k15.recipes.rl import SETTINGS_OF
from k15.store.artifact import Store
from k15.store.local import environment
from k15.store.runs import latest_run
from tests.bench.drawn.curves import curves_page

SEEDS = (0, 100, 200)  # named before the first result; added to every node's own seed
RECIPE = Path("recipes/tiny/pipeline.toml")
OUT = Path("out/bench")
START = "longcot"
OBJECTIVES = ("omd", "rest", "grpo")
Values = dict[str, Any]
Curves = dict[str, list[float]]  # by objective, the pass rate of every round


def main() -> int:
    """Run every seed, print tables, write figures and curves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--set", action="append", default=[], help="an override of the tiny recipe")
    arguments = parser.parse_args()
    store = Store.from_environment({**os.environ, **environment(Path.cwd(), os.environ)})
    flat: dict[str, float] = {}
    curves: list[Curves] = []
    for seed in arguments.seeds:
        path = OUT / f"objectives-{seed}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(to_toml(pipeline(seed, arguments.set)))
        done = subprocess.run([sys.executable, "-m", "k15.cli.main", "run", str(path)], check=False)
        if done.returncode:
            return done.returncode
        figures, rounds = of_run(store)
        flat |= {f"seed_{seed}_{name}": value for name, value in figures.items()}
        curves.append(rounds)
        print_seed(seed, figures)
    flat |= print_means(flat, arguments.seeds)
    print_curves(curves)
    (OUT / "objectives.html").write_text(curves_page(curves, OBJECTIVES))
    (OUT / "objectives.json").write_text(json.dumps(flat, indent=1))
    return 0


def pipeline(seed: int, overrides: Sequence[str]) -> Values:
    """The tiny recipe up to its start, an RL phase for each objective from there, and their evaluation."""
    values = load_toml(RECIPE)
    for text in overrides:
        values = merge(values, parse_override(text))
    given: dict[str, Values] = values["nodes"]
    rl, evaluate = given["rl"], given["evaluate"]
    nodes = {name: given[name] for name in needed(given, START)}
    for name in OBJECTIVES:
        update = {k: v for k, v in rl["recipe"]["update"].items() if SETTINGS_OF.get(k, name) == name}
        nodes[name] = {**rl, "recipe": {**rl["recipe"], "update": {**update, "objective": name}}}
    compared = {f"model.{name}": f"{name}:model" for name in (START, *OBJECTIVES)}
    nodes["evaluate"] = {**evaluate, "inputs": {"prompts": evaluate["inputs"]["prompts"], **compared}}
    for name, node in nodes.items():
        recipe = node.get("recipe", {})
        nodes[name] = {**node, "recipe": {**recipe, "seed": recipe.get("seed", 0) + seed}}
    return {"name": "objectives", "final": OBJECTIVES[0], "nodes": nodes}


def needed(nodes: Mapping[str, Values], last: str) -> list[str]:
    """A node and all that it is made of, producers first."""
    before = [source.partition(":")[0] for source in nodes[last].get("inputs", {}).values()]
    return list(dict.fromkeys([name for one in before for name in needed(nodes, one)] + [last]))


def to_toml(values: Values) -> str:
    """A table of tables, each of whose values stands on a line."""
    lines = [f"{key} = {inline(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, table in values.items():
        if isinstance(table, dict):
            lines += [
                f"\n[{key}]",
                *(f"{json.dumps(name)} = {inline(value)}" for name, value in table.items()),
            ]
    return "\n".join(lines) + "\n"


def inline(value: Any) -> str:
    """A value as TOML writes it on one line; its strings, numbers and flags are JSON's."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {inline(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(inline(one) for one in value) + "]"
    return json.dumps(value)


def of_run(store: Store) -> tuple[dict[str, float], Curves]:
    """Held-out figures of the newest run with their intervals, and each phase's pass rates."""
    run = latest_run(store)
    manifests = {name: store.manifest(run.nodes[name].key) for name in ("evaluate", *OBJECTIVES)}
    missing = [name for name, manifest in manifests.items() if manifest is None]
    if missing:
        raise ValueError(f"run {run.run_id} has no artifact of {', '.join(missing)}")
    opened = {name: store.open(manifest.ref()) for name, manifest in manifests.items() if manifest}
    figures: dict[str, float] = {}
    report = opened["evaluate"].read_json("evaluation.json")
    for model in report["models"]:
        for key in ("sampled", "sampled_low", "sampled_high", "tokens"):
            figures[f"{model['name']}_{key}"] = model[key]
    for pair in report["pairs"]:
        if {pair["first"], pair["second"]} <= set(OBJECTIVES):
            name = f"{pair['first']}_minus_{pair['second']}"
            for key in ("difference", "low", "high"):
                figures[f"{name}_{key}"] = pair[f"sampled_{key}"]
    curves = {}
    for name in OBJECTIVES:
        rows = [json.loads(line) for line in opened[name].read_bytes("rounds.jsonl").splitlines()]
        curves[name] = [row["pass_rate"] for row in rows]
    return figures, curves


def print_seed(seed: int, figures: Mapping[str, float]) -> None:
    """One seed's held-out accuracies and differences, as it ends."""
    for name in (START, *OBJECTIVES):
        low, high = (100 * figures[f"{name}_sampled_{end}"] for end in ("low", "high"))
        print(
            f"seed {seed:<4} {name:<8} {100 * figures[f'{name}_sampled']:6.1f} %  ({low:.1f} to {high:.1f})"
            f"  {figures[f'{name}_tokens']:6.1f} tokens"
        )
    for name in (key.removesuffix("_difference") for key in figures if key.endswith("_difference")):
        difference, low, high = (100 * figures[f"{name}_{key}"] for key in ("difference", "low", "high"))
        said = name.replace("_minus_", " − ")
        print(f"seed {seed:<4} {said:<14} {difference:+6.1f} points  ({low:+.1f} to {high:+.1f})", flush=True)


def print_means(flat: Mapping[str, float], seeds: Sequence[int]) -> dict[str, float]:
    """Gains over the start and OMD's lead, their means over seeds, and with two seeds their intervals."""
    print("\nmean over seeds, points of held-out accuracy")
    compared = [(name, START) for name in OBJECTIVES]
    compared += [(OBJECTIVES[0], other) for other in OBJECTIVES[1:]]
    means: dict[str, float] = {}
    for first, second in compared:
        points = [
            100 * (flat[f"seed_{s}_{first}_sampled"] - flat[f"seed_{s}_{second}_sampled"]) for s in seeds
        ]
        said = f"{first} − {second}"
        if len(points) > 1:
            found: Interval = runs_interval(points)
            means |= {f"{first}_minus_{second}_low": found.low, f"{first}_minus_{second}_high": found.high}
            said = f"{said:<16} {found.mean:+6.1f}  (95 %: {found.low:+.1f} to {found.high:+.1f})"
        else:
            said = f"{said:<16} {points[0]:+6.1f}  (one seed)"
        print(said)
        means[f"{first}_minus_{second}_points"] = fmean(points)
    return means


def print_curves(curves: Sequence[Curves]) -> None:
    """The pass rate by round, mean over seeds: of the prompts trained on, before the round's update."""
    print("\nround  " + "  ".join(f"{name:>6}" for name in OBJECTIVES))
    for number in range(min(len(curve[name]) for curve in curves for name in OBJECTIVES)):
        means = (fmean(curve[name][number] for curve in curves) for name in OBJECTIVES)
        print(f"{number:>5}  " + "  ".join(f"{100 * mean:>6.1f}" for mean in means))


if __name__ == "__main__":
    sys.exit(main())
