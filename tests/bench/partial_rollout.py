# environment: engine
"""Partial rollouts against waiting for the slowest response, on a heavy-tailed length distribution.

Speed: the same groups are sampled to their ends on one engine, once in phases that wait for the slowest and
once in phases with a budget of tokens, whose unfinished responses go on in the next. A response has one seed
for all its phases and the weights stay, so both sample the same tokens; what differs is counted.
Accuracy: an RL stage each way, from the same model over the same rounds, and both policies evaluated on every
prompt; three seeds, named before the first result.

`make bench NAME=partial_rollout ARGS="--seeds 11"`; writes out/bench/partial_rollout.json.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from transformers import AutoTokenizer

from k15.algo.intervals import mean_interval
from k15.engines.service.client import RemoteSampler
from k15.engines.service.process import launch_sampler
from k15.engines.service.settings import SamplerSettings
from k15.loops.clock import Clock
from k15.loops.prompts import take_groups
from k15.loops.replay import ReplayState, RolloutGroup
from k15.loops.rollout import Actors, Rollout
from k15.recipes.rl import RlRecipe
from k15.rewards import judge
from k15.store.rollouts import SegmentRow
from k15.tasks.format import prompt_token_ids, response_text
from tests.rl_stage import RlStage, prompts
from tests.s3 import s3_server

SEEDS = (11, 12, 13)  # named before the first result
NUM_GROUPS = 240
REPEATS = 3
LONGEST = 144
BUDGET = 24
PHASE = {
    "prompts_per_round": 24,
    "samples_per_prompt": 4,
    "max_response_tokens": LONGEST,
    "max_segments": 8,
}
ROUNDS = 24
POINTS = 100.0
Tokens = dict[tuple[int, int], tuple[int, ...]]  # of each response, by group and sample


class NoJournal:
    """Nothing is stored."""

    tries = 0
    stored: dict[tuple[int, int], Any] = {}

    def add(self, rows: list[SegmentRow]) -> None:
        """Not kept."""


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=SEEDS, help="of the RL stages; none: speed only"
    )
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory(prefix="k15-partial-") as name, s3_server(Path(name) / "s3") as server:
        rl = RlStage(server, "partial", Path(name) / "rl")
        try:
            figures = measure_speed(rl)
            if seeds:
                figures |= measure_accuracy(rl, seeds)
        finally:
            rl.end()
    for key, value in figures.items():
        print(f"{key:<32} {value:g}")
    target = Path("out/bench/partial_rollout.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1))
    return 0


def measure_speed(rl: RlStage) -> dict[str, float]:
    """Both ways on one engine, in turn."""
    model = rl.store.open(rl.prepare().ref("model")).download(rl.folder / "fitted")
    settings = SamplerSettings.parse(
        {"model_dir": str(model), "max_model_len": 32 + LONGEST, "max_num_seqs": 128}, where="sampler"
    )
    waiting = RlRecipe.parse({**PHASE, "phase_token_budget": LONGEST}, where="waiting")
    partial = RlRecipe.parse({**PHASE, "phase_token_budget": BUDGET}, where="partial")
    tokenizer = AutoTokenizer.from_pretrained(model)
    ratios, regenerated, differing = [], 0, 0
    with launch_sampler(settings, log_path=rl.folder / "sampler.log") as service:
        sampler = RemoteSampler(service.wait_ready(deadline_s=600))
        play(partial, sampler, tokenizer, num_groups=24)  # whatever happens only once
        for _ in range(REPEATS):
            slow_s, expected, _ = play(waiting, sampler, tokenizer, num_groups=NUM_GROUPS)
            fast_s, found, sampled = play(partial, sampler, tokenizer, num_groups=NUM_GROUPS)
            ratios.append(slow_s / fast_s)
            regenerated += sampled - count(found)
            differing += sum(found[place] != tokens for place, tokens in expected.items())
            print(f"waiting {slow_s:.2f} s, partial {fast_s:.2f} s for {count(found)} tokens", flush=True)
    lengths = sorted(len(tokens) for tokens in expected.values())
    return {
        "speedup": median(ratios),
        "speedup_lowest": min(ratios),
        "tokens_regenerated": float(regenerated),
        "tokens": float(count(expected)),
        "responses_that_differ": differing / REPEATS,
        "tokens_difference": float(count(found) - count(expected)),
        "length_median": float(median(lengths)),
        "length_max_over_median": lengths[-1] / median(lengths),
    }


def play(
    recipe: RlRecipe, sampler: RemoteSampler, tokenizer: Any, *, num_groups: int
) -> tuple[float, Tokens, int]:
    """Sample `num_groups` groups to their ends: seconds, every response's tokens, and tokens sampled."""
    posed = {prompt.id: prompt for prompt in prompts()}
    encoded = {p.id: tuple(prompt_token_ids(tokenizer, p.text)) for p in posed.values()}
    actors = Actors(recipe, posed, sampler, lambda ids: response_text(tokenizer, ids), judge)
    state, done, sampled = ReplayState(), [], 0
    started = time.perf_counter()
    while state.next_round == 0 or state.open_groups or len(done) < num_groups:
        groups, state = take_groups(recipe, posed, lambda prompt: encoded[prompt.id], state)
        groups = [group for group in groups if group.number < num_groups]
        rolled = Rollout(actors, groups, state.next_round, NoJournal()).run(Clock())
        sampled += sum(
            len(one.group.trajectories[sample].segments[-1].token_ids) for one in rolled for sample in one.new
        )
        done += [one.group for one in rolled if one.verdicts]
        still = tuple(one.group for one in rolled if not one.verdicts)
        state = replace(state, next_round=state.next_round + 1, open_groups=still)
    return time.perf_counter() - started, tokens_of(done), sampled


def tokens_of(groups: list[RolloutGroup]) -> Tokens:
    """Every response's tokens."""
    return {(group.number, t.sample): t.token_ids for group in groups for t in group.trajectories}


def count(tokens: Tokens) -> int:
    """How many there are."""
    return sum(map(len, tokens.values()))


def measure_accuracy(rl: RlStage, seeds: list[int]) -> dict[str, float]:
    """An RL stage each way for every seed, evaluated side by side: partial minus waiting, in points."""
    figures: dict[str, float] = {}
    differences = []
    for seed in seeds:
        models = {}
        for name, budget in (("waiting", LONGEST), ("partial", BUDGET)):
            recipe = {**PHASE, "phase_token_budget": budget, "rounds": ROUNDS, "seed": seed}
            job = rl.rl({**recipe, "update": {"lr": 3e-4}}, every=ROUNDS)
            rl.run(job)
            models[f"model.{name}"] = rl.manifest(job).ref("model")
        asked = {"num_prompts": len(prompts()), "samples_per_prompt": 16, "max_response_tokens": LONGEST}
        inputs = {"prompts": rl.rl({}).inputs["prompts"], "model.start": rl.prepare().ref("model"), **models}
        job = rl.job("evaluate", {**asked, "seed": seed}, inputs)
        rl.run(job)
        report = rl.store.open(rl.manifest(job).ref()).read_json("evaluation.json")
        sampled = {model["name"]: POINTS * model["sampled"] for model in report["models"]}
        differences.append(sampled["partial"] - sampled["waiting"])
        figures |= {f"seed_{seed}_{name}": value for name, value in sampled.items()}
        print(
            f"seed {seed}: " + ", ".join(f"{name} {value:.1f} %" for name, value in sampled.items()),
            flush=True,
        )
    interval = mean_interval(differences, draws=2000, seed=0)
    return figures | {
        "accuracy_difference_points": fmean(differences),
        "accuracy_difference_low": interval.low,
        "accuracy_difference_high": interval.high,
    }


if __name__ == "__main__":
    sys.exit(main())
