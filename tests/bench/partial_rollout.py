# environment: engine
"""Partial rollouts against waiting for the slowest response, on a heavy-tailed length distribution.

Speed: the same groups are sampled to their ends on one engine, once in phases that wait for the slowest and
once in phases with a budget of tokens, whose unfinished responses go on in the next. A response has one seed
for all its phases and the weights stay, so both sample the same tokens; what differs is counted.
Accuracy: an RL stage each way, from the same model over as many rounds, both policies judged on 1,000
prompts that neither trained on, 4 samples each, paired by prompt; three seeds, named before the first result.
The task is to find the largest of four digits; one demonstration in five gives the second.

`make bench NAME=partial_rollout ARGS="--seeds 11"`; writes out/bench/partial_rollout.json.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from statistics import fmean, median
from types import MappingProxyType
from typing import Any

from transformers import AutoTokenizer

from k15.algo.intervals import runs_interval
from k15.engines.service.client import RemoteSampler
from k15.engines.service.process import launch_sampler
from k15.engines.service.settings import SamplerSettings
from k15.loops.clock import Clock
from k15.loops.prompts import take_groups
from k15.loops.replay import ReplayState, RolloutGroup
from k15.loops.rollout import Actors, Rollout
from k15.ports import Reward
from k15.recipes.pipeline import Resources
from k15.recipes.rl import RlRecipe
from k15.records import Part, Prompt, Segment
from k15.store.rollouts import SegmentRow
from k15.tasks.format import prompt_token_ids, response_text
from stages.rewards import open_judge
from tests.rl_stage import RlStage, Task, demonstration
from tests.s3 import s3_server

SEEDS = (31, 32, 33)  # named before the first result; what fits the task was tried out on 101
NUM_GROUPS = 240
REPEATS = 3
LONGEST = 144
BUDGET = 24
PHASE = {
    "prompts_per_round": 12,
    "samples_per_prompt": 4,
    "max_response_tokens": LONGEST,
    "max_segments": 8,
}
ROUNDS = 60
NUM_HELDOUT, SAMPLES = 1000, 4
SHARE_WRONG = 0.2  # of the demonstrations
FIT_STEPS = 500
POINTS = 100.0
Tokens = dict[tuple[int, int], tuple[int, ...]]  # of each response, by group and sample


class NoJournal:
    """Nothing is stored."""

    tries = 0
    asked_again = 0
    moved_before = 0
    stored: Mapping[tuple[int, int], Segment] = MappingProxyType({})

    def ask(self, num_responses: int) -> None:
        """Not kept."""

    def moved(self, num_responses: int) -> None:
        """Not kept."""

    def add(self, rows: Sequence[SegmentRow]) -> None:
        """Not kept."""


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=SEEDS, help="of the RL stages; none: speed only"
    )
    seeds = parser.parse_args().seeds
    with tempfile.TemporaryDirectory(prefix="k15-partial-") as name, s3_server(Path(name) / "s3") as server:
        task = largest_of_four()
        rl = RlStage(server, "partial", Path(name) / "rl", task)
        try:
            figures = measure_speed(rl, task.prompts)
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


def largest_of_four() -> Task:
    """Lists of four unlike digits, those held out apart from those trained on."""
    drawn = random.Random(0)
    lists = list(permutations(range(10), 4))
    drawn.shuffle(lists)
    posed = [
        Prompt(
            f"largest-{'-'.join(map(str, digits))}",
            (Part("text", f"{' '.join(map(str, digits))} ="),),
            str(max(digits)),
            "largest",
            0.5,
            "math",
        )
        for digits in lists
    ]
    shown = []
    for digits, prompt in zip(lists[NUM_HELDOUT:], posed[NUM_HELDOUT:], strict=True):
        wrong = drawn.random() < SHARE_WRONG
        shown.append(demonstration(prompt, sorted(digits)[2 if wrong else 3], drawn))
    return Task(posed[NUM_HELDOUT:], shown, posed[:NUM_HELDOUT])


def measure_speed(rl: RlStage, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Both ways on one engine, in turn."""
    model = rl.store.open(rl.prepare(FIT_STEPS).ref("model")).download(rl.folder / "fitted")
    settings = SamplerSettings.parse(
        {"model_dir": str(model), "max_model_len": 32 + LONGEST, "max_num_seqs": 128}, where="sampler"
    )
    waiting = RlRecipe.parse({**PHASE, "phase_token_budget": LONGEST}, where="waiting")
    partial = RlRecipe.parse({**PHASE, "phase_token_budget": BUDGET}, where="partial")
    tokenizer = AutoTokenizer.from_pretrained(model)
    ratios, regenerated, differing = [], 0, 0
    with (
        open_judge(prompts, Resources(), rl.folder) as judge,
        launch_sampler(settings, log_path=rl.folder / "sampler.log") as service,
    ):
        sampler = RemoteSampler(service.wait_ready(deadline_s=600))
        play(partial, sampler, tokenizer, judge, prompts, num_groups=24)  # whatever happens only once
        for _ in range(REPEATS):
            slow_s, expected, _ = play(waiting, sampler, tokenizer, judge, prompts, num_groups=NUM_GROUPS)
            fast_s, found, sampled = play(partial, sampler, tokenizer, judge, prompts, num_groups=NUM_GROUPS)
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
    recipe: RlRecipe,
    sampler: RemoteSampler,
    tokenizer: Any,
    judge: Reward,
    prompts: Sequence[Prompt],
    *,
    num_groups: int,
) -> tuple[float, Tokens, int]:
    """Sample `num_groups` groups to their ends: seconds, every response's tokens, and tokens sampled."""
    posed = {prompt.id: prompt for prompt in prompts}
    encoded = {p.id: tuple(prompt_token_ids(tokenizer, p.text)) for p in posed.values()}
    actors = Actors(recipe, posed, sampler, lambda ids: response_text(tokenizer, ids), judge)
    done: list[RolloutGroup] = []
    state, sampled = ReplayState(), 0
    started = time.perf_counter()
    while state.next_round == 0 or state.open_groups or len(done) < num_groups:
        groups, state = take_groups(recipe, posed, lambda prompt: encoded[prompt.id], state)
        groups = [group for group in groups if group.number < num_groups]
        rollout = Rollout(actors, groups, state.next_round, NoJournal())
        rolled = rollout.run(Clock())
        sampled += rollout.sampling.num_tokens  # of the engine: what it drew, kept or not
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


def measure_accuracy(rl: RlStage, seeds: Sequence[int]) -> dict[str, float]:
    """An RL stage each way for every seed, judged side by side: partial minus waiting, in points."""
    figures: dict[str, float] = {}
    differences = []
    for seed in seeds:
        models = {}
        for name, budget in (("waiting", LONGEST), ("partial", BUDGET)):
            recipe: dict[str, Any] = {**PHASE, "phase_token_budget": budget, "seed": seed}
            recipe |= {"rounds": ROUNDS, "prompts_per_round": 24, "update": {"lr": 3e-4}}
            job = rl.rl(recipe, every=ROUNDS, steps=FIT_STEPS)
            rl.run(job)
            models[f"model.{name}"] = rl.manifest(job).ref("model")
            figures |= {
                f"seed_{seed}_{name}_{key}": rl.manifest(job).summary[key]
                for key in ("rounds", "num_updates", "sampled_tokens")
            }
        asked = {"num_prompts": NUM_HELDOUT, "samples_per_prompt": SAMPLES, "max_response_tokens": LONGEST}
        inputs = {
            "prompts": rl.prompts("heldout"),
            "model.start": rl.prepare(FIT_STEPS).ref("model"),
            **models,
        }
        job = rl.job("evaluate", {**asked, "seed": seed}, inputs)
        rl.run(job)
        report = rl.store.open(rl.manifest(job).ref()).read_json("evaluation.json")
        sampled = {model["name"]: POINTS * model["sampled"] for model in report["models"]}
        difference, low, high = partial_minus_waiting(report["pairs"])
        differences.append(difference)
        figures |= {f"seed_{seed}_{name}_percent": value for name, value in sampled.items()}
        figures |= {
            f"seed_{seed}_difference_points": difference,
            f"seed_{seed}_low_points": low,
            f"seed_{seed}_high_points": high,
        }
        print(
            f"seed {seed}: {', '.join(f'{name} {value:.1f} %' for name, value in sampled.items())};"
            f" partial - waiting {difference:+.1f} points ({low:+.1f} to {high:+.1f}, paired by prompt)",
            flush=True,
        )
    figures["accuracy_difference_points"] = fmean(differences)
    if len(differences) > 1:
        over = runs_interval(differences)
        figures |= {"accuracy_difference_low_points": over.low, "accuracy_difference_high_points": over.high}
    return figures


def partial_minus_waiting(pairs: Sequence[dict[str, Any]]) -> tuple[float, float, float]:
    """Points of held-out accuracy with their 95 % interval, from an evaluation's pairs."""
    (pair,) = [pair for pair in pairs if {pair["first"], pair["second"]} == {"partial", "waiting"}]
    sign = POINTS if pair["first"] == "partial" else -POINTS
    low, high = sorted((sign * pair["sampled_low"], sign * pair["sampled_high"]))
    return sign * pair["sampled_difference"], low, high


if __name__ == "__main__":
    sys.exit(main())
