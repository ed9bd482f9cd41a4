"""A real RL stage on a small model that answers sums well enough to learn, in a store of its own.

The model writes a few filler words, how many differs a lot, and then its answer: partial rollouts and mixed
groups from the first round on.
"""

import json
import os
import random
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k15.recipes import KINDS
from k15.recipes.pipeline import Resources
from k15.records import Part, Prompt
from k15.store.artifact import Store
from k15.store.job import Job
from k15.store.manifest import InputRef, Manifest, Provenance, RoundManifest
from k15.store.tables import Demonstration, demonstrations_to_table, prompts_to_table
from tests.s3 import S3Server

FLOW = """
import os, sys
from pathlib import Path
from flows.launcher import ProcessLauncher
from k15.recipes.pipeline import Resources
launcher = ProcessLauncher(Path(sys.argv[1]), Path.cwd(), dict(os.environ), debug=True)
stage = launcher.start(sys.argv[2], sys.argv[3], Resources())
for line in stage.lines():
    print(line, flush=True)
sys.exit(stage.wait())
"""  # what the flow does with a stage, in a process that a test may kill
ROOT = Path(__file__).parents[1]
ENGINE = ROOT / ".venv" / "engine" / "bin" / "python"
CONTROL = ROOT / ".venv" / "control" / "bin" / "python"
SUMS = [(a, b) for a in range(10) for b in range(10)]
BASE = Job(node="base", kind="base", version=1, recipe={}, inputs={})
STEPS = 150  # of the fit
SHORT_STEPS = 60
SHORT = {  # a few rounds, with continued responses, that a test can play several times
    "rounds": 3,
    "prompts_per_round": 24,
    "samples_per_prompt": 4,
    "max_response_tokens": 96,
    "phase_token_budget": 48,
    "update": {"lr": 1e-3},
}
FILLER = "well "
TOKENIZED = 100  # prompts that the tokenizer is trained on
DEADLINE_S = 1200.0
TRIES = 3
MAKE_MODEL = """
import sys, torch, transformers
from k15.tasks.tokenizer import train_tokenizer
torch.set_num_threads(1)
tokenizer = train_tokenizer(sys.argv[2:] * 9, 270)
config = transformers.Qwen3Config(
    vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=256,
    eos_token_id=tokenizer.eos_token_id,
)
torch.manual_seed(0)
transformers.Qwen3ForCausalLM(config).save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
"""


@dataclass(frozen=True)
class Task:
    """What an RL stage learns on, what it is judged by, and what its first model is fitted to."""

    prompts: Sequence[Prompt]
    demonstrations: Sequence[Demonstration]
    heldout: Sequence[Prompt] = ()


def demonstration(prompt: Prompt, answer: int, drawn: random.Random) -> Demonstration:
    """An answer after 0 to 24 filler words, most often few."""
    fillers = min(24, int(drawn.paretovariate(0.9)) - 1)
    return Demonstration(prompt.text, f"{FILLER * fillers}#### {answer}", "direct", prompt.task)


def sums() -> Task:
    """All sums of two digits; a quarter of the demonstrated answers is off by one."""
    drawn = random.Random(0)
    shown = [drawn.choice(prompts()) for _ in range(4000)]
    answers = [int(prompt.reference) + (drawn.random() < 0.25) for prompt in shown]
    return Task(prompts(), [demonstration(*pair, drawn) for pair in zip(shown, answers, strict=True)])


def prompts() -> list[Prompt]:
    """Every sum once."""
    return [
        Prompt(f"sum-{a}-{b}", (Part("text", f"{a} + {b} ="),), str(a + b), "sum", (a + b) / 18, "math")
        for a, b in SUMS
    ]


class RlStage:
    """One store with a model to start from, and RL stages of any recipe on it."""

    def __init__(self, server: S3Server, prefix: str, folder: Path, task: Task | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tmp").mkdir(exist_ok=True)
        self.folder, self._task = folder, task or sums()
        self.environment = {
            **server.environment,
            "K15_S3_PREFIX": prefix,
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": str(ROOT),
        }
        self.store = Store.from_environment(self.environment)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._started = 0

    def prepare(self, steps: int = STEPS) -> Manifest:
        """A model fitted to the demonstrations."""
        made = BASE
        if self.store.manifest(made.key) is None:
            local, task = self.folder / "model", self._task
            texts = [prompt.text for prompt in task.prompts[:TOKENIZED]]
            subprocess.run([ENGINE, "-c", MAKE_MODEL, local, *texts], check=True, cwd=ROOT, env=self._env())
            attempt = self.store.begin(made.key)
            attempt.add_directory("model", local)
            attempt.write_table("sft/demonstrations.parquet", demonstrations_to_table(task.demonstrations))
            for part, rows in (("train", task.prompts), ("heldout", task.heldout or task.prompts)):
                attempt.write_table(f"{part}/prompts.parquet", prompts_to_table(rows))
            self.store.commit(attempt, made, Provenance(), {})
        base = self.manifest(made)
        recipe = {
            "steps": steps,
            "examples_per_step": 32,
            "optimizer": {"lr": 3e-3, "final_lr": 3e-4, "warmup_steps": 10},
        }
        job = self.job("sft", recipe, {"model": base.ref("model"), "data": base.ref("sft")})
        if self.store.manifest(job.key) is None:
            self.run(job)
        return self.manifest(job)

    def prompts(self, part: str) -> InputRef:
        """The prompts to learn on ("train") or to be judged by ("heldout")."""
        return self.manifest(BASE).ref(part)

    def rl(self, recipe: Mapping[str, Any], *, every: int = 1, steps: int = STEPS, **resources: Any) -> Job:
        """An RL job on that model."""
        inputs = {"model": self.prepare(steps).ref("model"), "prompts": self.prompts("train")}
        return self.job("rl", recipe, inputs, Resources(checkpoint_every_rounds=every, **resources))

    def job(
        self,
        kind: str,
        recipe: Mapping[str, Any],
        inputs: Mapping[str, Any],
        resources: Resources | None = None,
    ) -> Job:
        """A resolved job of one stage."""
        resolved = KINDS[kind].parse(dict(recipe), where=kind)
        return Job(
            node=kind,
            kind=kind,
            version=resolved.version,
            recipe=resolved.resolved(),
            inputs=dict(inputs),
            resources=resources or Resources(),
        )

    def start(self, job: Job) -> "subprocess.Popen[bytes]":
        """Start a stage through the flow's launcher; its output goes to a file of its own in the folder."""
        uri = self.store.put_job(job)
        self._started += 1
        with (self.folder / f"{job.kind}-{self._started}.log").open("wb") as log:
            process = subprocess.Popen(
                [CONTROL, "-c", FLOW, ENGINE, job.kind, uri],
                cwd=ROOT,
                env={**self._env(), "K15_TOKEN_LEDGER": str(self.ledger(job))},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        return process

    def running(self) -> "subprocess.Popen[bytes] | None":
        """The stage started last, if it still runs."""
        last = self._processes[-1] if self._processes else None
        return last if last is not None and last.poll() is None else None

    def run(self, job: Job) -> str:
        """Run a stage to its end, again where it faults, as the flow does; what it said.

        RuntimeError where it failed every time.
        """
        for _ in range(TRIES):
            code = self.start(job).wait(DEADLINE_S)
            if not code:
                return self.log(job)
        raise RuntimeError(f"{job.kind} ended with exit code {code}:\n{self.log(job)[-4000:]}")

    def ledger(self, job: Job) -> Path:
        """Where the samplers of a stage write down what they draw."""
        return self.folder / "drawn" / job.key

    def log_path(self, job: Job) -> Path:
        """Where the stage started last says it."""
        return self.folder / f"{job.kind}-{self._started}.log"

    def log(self, job: Job) -> str:
        """What the stage started last said."""
        return self.log_path(job).read_text(errors="replace")

    def manifest(self, job: Job) -> Manifest:
        """Of a finished stage."""
        found = self.store.manifest(job.key)
        if found is None:
            raise RuntimeError(f"{job.kind} {job.key} is not done")
        return found

    def rounds(self, job: Job) -> list[RoundManifest]:
        """What is committed of an RL stage."""
        return self.store.rounds(job.key)

    def table(self, record: RoundManifest, name: str) -> list[dict[str, Any]]:
        """The rows of a round's table."""
        artifact = self.store.open_round(record)
        there = any(file.path == name for file in artifact.files)
        rows: list[dict[str, Any]] = artifact.read_table(name).to_pylist() if there else []
        return rows

    def end(self) -> None:
        """End what still runs."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def _env(self) -> dict[str, str]:
        return os.environ | self.environment


def weights_digest(manifest: Manifest) -> str:
    """Of the model in an artifact."""
    return json.dumps([entry.resolved() for entry in manifest.part("model")])
