"""A small pipeline run as the store would hold it when it is over, written through the real store.

The numbers are drawn, not trained: these tests are about what is read from the store, not about learning.
"""

import hashlib
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow

from k15.recipes import KINDS
from k15.records import Part, Prompt
from k15.store.artifact import Store
from k15.store.job import Context, Job
from k15.store.manifest import InputRef, Manifest, Provenance
from k15.store.runs import NodeRecord, RunRecord, RunState, write_run
from k15.store.tables import Demonstration, demonstrations_to_table, prompts_to_table

QUESTIONS = b'{"question": "1 + 1", "answer": "2"}\n'
RAW_KEY = hashlib.sha256(QUESTIONS).hexdigest()
LICENSES = {"questions": "CC-BY-4.0"}
COMMIT = "5f0c2f3b9d8e4a7c6b1a0918273645f0e1d2c3b4"
START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)

MODELS = {  # name: sampled, greedy, tokens
    "sft": (0.541, 0.602, 17.1),
    "longcot": (0.303, 0.178, 16.0),
    "control": (0.331, 0.240, 15.2),
    "rl": (0.484, 0.571, 25.0),
    "merge": (0.402, 0.466, 19.6),
    "short": (0.505, 0.590, 16.9),
}
SECONDS = {
    "data": 14.2,
    "base": 3.1,
    "pretrain": 71.0,
    "activate": 24.8,
    "sft": 38.5,
    "longcot": 61.3,
    "control": 44.0,
    "rl": 148.2,
    "merge": 2.4,
    "short": 117.9,
    "evaluate": 66.1,
}


@dataclass
class Run:
    """Writes the stages of one run, one after the other."""

    store: Store
    run_id: str
    rounds: int = 30
    manifests: dict[str, Manifest] = field(default_factory=dict)
    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    now: datetime = START
    licenses: Mapping[str, str] = field(default_factory=dict)  # of raw files, by role

    def stage(
        self,
        node: str,
        kind: str,
        inputs: Mapping[str, InputRef],
        files: Mapping[str, Any],
        recipe: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Commit one stage: `files` are bytes, tables, or values that become JSON."""
        required = {"steps": 10} if "steps" in KINDS[kind].model_fields else {}
        required |= (
            {"phases": [{"length": 64, "steps": 1, "sequences_per_step": 1}]} if kind == "activate" else {}
        )
        resolved = KINDS[kind].parse({**required, **(recipe or {})}, where=node).resolved()
        context = Context(run_id=self.run_id, commit=COMMIT)
        job = Job(
            node=node,
            kind=kind,
            version=KINDS[kind].version,
            recipe=resolved,
            inputs=dict(inputs),
            context=context,
            licenses={role: self.licenses[role] for role in inputs if role in self.licenses},
        )
        attempt = self.store.begin(job.key)
        for path, content in files.items():
            if isinstance(content, bytes):
                attempt.write_bytes(path, content)
            elif isinstance(content, pyarrow.Table):
                attempt.write_table(path, content)
            else:
                attempt.write_json(path, content)
        rows = [{"step": step, "loss": 2.0 * math.exp(-step / 4)} for step in range(8)]
        attempt.write_bytes("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        seconds = SECONDS[node]
        provenance = Provenance(
            commit=COMMIT,
            image_digest="sha256:" + "1d" * 32,
            code_digest="sha256:" + "c0" * 32,
            host="test",
            started=self.now.isoformat(),
            ended=(self.now + timedelta(seconds=seconds)).isoformat(),
            seconds=seconds,
            run_id=self.run_id,
            prefect_flow_run_id="0d9c7a52",
        )
        manifest = self.store.commit(attempt, job, provenance, {"final_loss": 0.27})
        self.manifests[node] = manifest
        self.nodes[node] = NodeRecord(
            kind=kind,
            key=job.key,
            state=RunState.DONE,
            seconds=seconds,
            attempts=1,
            started=provenance.started,
            ended=provenance.ended,
        )
        self.now += timedelta(seconds=seconds + 0.4)
        return manifest

    def model(
        self, node: str, kind: str, parent: str, data: str, recipe: Mapping[str, Any] | None = None
    ) -> None:
        """A stage that makes a model out of another and a part of the data."""
        inputs = {"model": self.manifests[parent].ref("model"), "data": self.manifests["data"].ref(data)}
        self.stage(node, kind, inputs, weights(node), recipe)

    def phase(self, node: str, parent: str, recipe: Mapping[str, Any], rows: list[dict[str, float]]) -> None:
        """An RL stage with its rounds."""
        inputs = {
            "model": self.manifests[parent].ref("model"),
            "prompts": self.manifests["data"].ref("train"),
        }
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        self.stage(
            node, "rl", inputs, {**weights(node), "rounds.jsonl": lines}, {"rounds": len(rows), **recipe}
        )


def weights(node: str) -> dict[str, Any]:
    """A model directory as far as the store cares."""
    config = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 128, "num_hidden_layers": 3}
    return {"model/config.json": config, "model/model.safetensors": f"weights of {node}".encode() * 50}


def round_rows(
    count: int, passing: tuple[float, float], tokens: tuple[float, float], seed: int
) -> list[dict[str, float]]:
    """Rounds whose pass rate and length go from one value to another, with noise."""
    drawn = random.Random(seed)
    rows = []
    for number in range(count):
        done = 1 - math.exp(-3.2 * (number + 1) / count)
        rate = passing[0] + (passing[1] - passing[0]) * done + drawn.gauss(0, 0.022)
        length = tokens[0] + (tokens[1] - tokens[0]) * done + drawn.gauss(0, 0.35)
        seconds = {
            "rollout_s": 1.25 + drawn.gauss(0, 0.08),
            "reward_s": 0.02 + abs(drawn.gauss(0, 0.004)),
            "train_s": 2.9 + drawn.gauss(0, 0.15),
            "publish_s": 0.031 + abs(drawn.gauss(0, 0.004)),
            "update_s": 0.042 + abs(drawn.gauss(0, 0.006)),
            "commit_s": 0.11 + abs(drawn.gauss(0, 0.02)),
        }
        row = {
            "round": number,
            "reward": rate - 0.02,
            "pass_rate": rate,
            "tokens_mean": length,
            "num_groups": 64,
            "unjudged": 0,
            "loss": 0.01 * math.exp(-number / 9),
            "gradient_norm": 0.4 + 0.1 * drawn.random(),
            "mismatch_mean": 3e-7,
            "mismatch_max": 4e-5,
            "share_partial": 0.1 * drawn.random(),
            "share_cut": 0.0,
            "share_stale": 0.2 * drawn.random(),
            "idle_trainer": 0.3 + 0.1 * drawn.random(),
            **seconds,
        }
        rows.append(row | {"wall_s": sum(seconds.values()) + 0.03})
    return rows


def data_files() -> dict[str, Any]:
    """Prompts and demonstrations."""
    questions = [
        f"State the final answer to the following arithmetic problem: {a} + {a + 7} =" for a in range(12)
    ]
    prompts = [
        Prompt(f"p{n}", (Part("text", text),), str(2 * n + 7), "chain_sum", 0.2, "math")
        for n, text in enumerate(questions)
    ]
    shown = [
        Demonstration(text, f"The answer is {2 * n + 7}.", "short", "chain_sum")
        for n, text in enumerate(questions)
    ]
    return {
        "train/prompts.parquet": prompts_to_table(prompts[:8]),
        "heldout/prompts.parquet": prompts_to_table(prompts[8:]),
        "pretrain/text.parquet": pyarrow.table({"text": questions}),
        "sft/demonstrations.parquet": demonstrations_to_table(shown),
        "longcot/demonstrations.parquet": demonstrations_to_table(shown[:6]),
    }


def evaluation() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """evaluation.json and trajectories.json."""
    models = []
    for name, (sampled, greedy, tokens) in sorted(MODELS.items()):
        row: dict[str, Any] = {"name": name, "n": 1000, "unjudged": 0}
        for key, value, half in (
            ("sampled", sampled, 0.026),
            ("greedy", greedy, 0.03),
            ("tokens", tokens, 0.5),
        ):
            row |= {key: value, f"{key}_low": value - half, f"{key}_high": value + half}
        models.append(
            row | {"by_task": {"chain_sum": sampled, "gcd": sampled - 0.05, "leg_counting": sampled + 0.03}}
        )
    names = sorted(MODELS)
    pairs = []
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            accuracy = MODELS[first][0] - MODELS[second][0]
            length = MODELS[first][2] - MODELS[second][2]
            pairs.append(
                {
                    "first": first,
                    "second": second,
                    "sampled_difference": accuracy,
                    "sampled_low": accuracy - 0.021,
                    "sampled_high": accuracy + 0.021,
                    "tokens_difference": length,
                    "tokens_low": length - 0.4,
                    "tokens_high": length + 0.4,
                }
            )
    wait = " Wait, let me check that again."
    shown = []
    for question, answer, wrong in (
        ("27 - 63 + 41 =", 5, 9),
        ("88 + 45 - 9 =", 124, 114),
        ("6 + 39 - 52 =", -7, 7),
    ):
        first = f"27 - 63 = {answer - 41}." if "27" in question else "Step by step."
        texts = {
            "sft": (f"{first} The answer is {answer}.", "correct", 14),
            "longcot": (f"The answer is {wrong}.", "wrong", 5),
            "control": (f"The answer is {wrong}.", "wrong", 5),
            "rl": (f"{first}{wait * 3} The answer is {answer}.", "correct", 33),
            "merge": (f"{first} The answer is {answer}.", "correct", 14),
            "short": (f"{first} The answer is {answer}.", "correct", 14),
        }
        responses = {n: {"response": r, "status": s, "tokens": t} for n, (r, s, t) in texts.items()}
        prompt = f"State the final answer to the following arithmetic problem: {question}"
        shown.append(
            {"prompt": prompt, "reference": str(answer), "task": "chain_sum", "responses": responses}
        )
    return {"models": models, "pairs": pairs}, shown


def write_finished_run(
    store: Store,
    run_id: str = "20261122-100000-abcd",
    *,
    rounds: int = 30,
    licenses: Mapping[str, str] = LICENSES,
) -> RunRecord:
    """Every stage of a run like the tiny pipeline's, and its record."""
    run = Run(store, run_id, rounds, licenses=licenses)
    store.objects.put(f"raw/{RAW_KEY}", QUESTIONS)
    raw = InputRef(key=RAW_KEY, digest=f"sha256:{RAW_KEY}", raw=True)
    run.stage("data", "data", {"questions": raw}, data_files())
    run.stage("base", "base", {"data": run.manifests["data"].ref()}, weights("base"))
    for node, parent, part in (("pretrain", "base", "pretrain"), ("activate", "pretrain", "pretrain")):
        run.model(node, node, parent, part)
    run.model("sft", "sft", "activate", "sft")
    run.model("longcot", "longcot", "sft", "longcot")
    run.model("control", "longcot", "longcot", "longcot", {"seed": 1})
    run.phase("rl", "longcot", {}, round_rows(rounds, (0.29, 0.49), (15.6, 25.2), 1))
    long_short = {"long": run.manifests["rl"].ref("model"), "short": run.manifests["sft"].ref("model")}
    run.stage("merge", "merge", long_short, weights("merge"))
    shorter = round_rows(rounds * 5 // 6, (0.48, 0.51), (25.0, 16.6), 2)
    run.phase("short", "rl", {"seed": 1, "length_reward_weight": 0.5}, shorter)
    figures, shown = evaluation()
    inputs = {"prompts": run.manifests["data"].ref("heldout")}
    inputs |= {f"model.{name}": run.manifests[name].ref("model") for name in MODELS}
    run.stage("evaluate", "evaluate", inputs, {"evaluation.json": figures, "trajectories.json": shown})
    record = RunRecord(
        run_id=run_id,
        pipeline="tiny",
        recipe="recipes/tiny/pipeline.toml",
        state=RunState.DONE,
        final="short",
        nodes=run.nodes,
        started=START.isoformat(),
        ended=run.now.isoformat(),
        seconds=(run.now - START).total_seconds(),
        commit=COMMIT,
        host="test",
        started_by="k15 run by tester@test",
        prefect_flow_run_id="0d9c7a52",
        prefect_url="http://127.0.0.1:4200/runs/flow-run/0d9c7a52",
    )
    write_run(store, record)
    return record
