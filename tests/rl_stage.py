"""A real RL stage on a small model that answers sums well enough to learn, in a store of its own.

The model writes a few filler words, how many differs a lot, and then its answer: partial rollouts and mixed
groups from the first round on.
"""

import json
import os
import random
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k15.recipes import KINDS
from k15.recipes.pipeline import Resources
from k15.records import Part, Prompt
from k15.store.artifact import Store
from k15.store.job import Job
from k15.store.manifest import Manifest, Provenance, RoundManifest
from k15.store.tables import Demonstration, demonstrations_to_table, encode_table, prompts_to_table
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
FILLER = "well "
DEADLINE_S = 1200.0
TRIES = 3
MAKE_MODEL = """
import sys, torch, transformers
from k15.tasks.tokenizer import train_tokenizer
torch.set_num_threads(1)
texts = [f"{a} + {b} =" for a in range(10) for b in range(10)] * 9
tokenizer = train_tokenizer(texts, 270)
config = transformers.Qwen3Config(
    vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=256,
    eos_token_id=tokenizer.eos_token_id,
)
torch.manual_seed(0)
transformers.Qwen3ForCausalLM(config).save_pretrained(sys.argv[1])
tokenizer.save_pretrained(sys.argv[1])
"""


def demonstrations(count: int, seed: int = 0) -> list[Demonstration]:
    """Sums with 0 to 24 filler words before the answer, most often few; a quarter of the answers is off."""
    drawn = random.Random(seed)
    made = []
    for _ in range(count):
        a, b = drawn.choice(SUMS)
        fillers = min(24, int(drawn.paretovariate(0.9)) - 1)
        answer = a + b + (drawn.random() < 0.25)
        made.append(Demonstration(f"{a} + {b} =", f"{FILLER * fillers}#### {answer}", "direct", "sum"))
    return made


def prompts() -> list[Prompt]:
    """Every sum once."""
    return [
        Prompt(f"sum-{a}-{b}", (Part("text", f"{a} + {b} ="),), str(a + b), "sum", (a + b) / 18, "math")
        for a, b in SUMS
    ]


class RlStage:
    """One store with a model to start from, and RL stages of any recipe on it."""

    def __init__(self, server: S3Server, prefix: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tmp").mkdir(exist_ok=True)
        self.folder = folder
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
            local = self.folder / "model"
            subprocess.run([ENGINE, "-c", MAKE_MODEL, local], check=True, cwd=ROOT, env=self._env())
            attempt = self.store.begin(made.key)
            attempt.add_directory("model", local)
            rows = demonstrations(4000)
            attempt.write_bytes("sft/demonstrations.parquet", encode_table(demonstrations_to_table(rows)))
            attempt.write_bytes("train/prompts.parquet", encode_table(prompts_to_table(prompts())))
            self.store.commit(attempt, made, Provenance(), {})
        base = self.manifest(made)
        recipe = {
            "steps": steps,
            "examples_per_step": 32,
            "optimizer": {"lr": 3e-3, "final_lr": 3e-4, "warmup_steps": 10},
        }
        job = self.job("sft", recipe, {"model": base.ref("model"), "data": base.ref("sft")})
        self.run(job)
        return self.manifest(job)

    def rl(self, recipe: Mapping[str, Any], *, every: int = 1, steps: int = STEPS) -> Job:
        """An RL job on that model."""
        inputs = {"model": self.prepare(steps).ref("model"), "prompts": self.manifest(BASE).ref("train")}
        return self.job("rl", recipe, inputs, Resources(checkpoint_every_rounds=every))

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
                env=self._env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        return process

    def run(self, job: Job) -> str:
        """Run a stage to its end, again where it faults, as the flow does; what it said.

        RuntimeError where it failed every time.
        """
        for _ in range(TRIES):
            code = self.start(job).wait(DEADLINE_S)
            if not code:
                return self.log(job)
        raise RuntimeError(f"{job.kind} ended with exit code {code}:\n{self.log(job)[-4000:]}")

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
