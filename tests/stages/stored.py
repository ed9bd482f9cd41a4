"""A real SFT stage on a store of its own: started as a process, killed, looked at."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k15.recipes.pipeline import Resources
from k15.recipes.supervised import SftRecipe
from k15.store.artifact import Store
from k15.store.job import Job
from k15.store.manifest import Manifest, Provenance
from k15.store.steps import Steps
from k15.store.tables import Demonstration, demonstrations_to_table
from tests.s3 import S3Server

ROOT = Path(__file__).parents[2]
DEADLINE_S = 600.0
ADDITIONS = [(a, b) for a in range(40) for b in range(40)]
SETS = {
    "sums": [Demonstration(f"{a} + {b} =", str(a + b), "direct", "sum") for a, b in ADDITIONS],
    "steps": [
        Demonstration(f"{a} + {b} =", f"{a} + {b} = {b} + {a} = {a + b}", "long", "sum")
        for a, b in ADDITIONS[::3]
    ],
}


def make_model(directory: Path) -> Path:
    """A tiny Qwen3 with a tokenizer of its own."""
    import torch
    import transformers

    from k15.tasks.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([f"{a} + {b} = {a + b}" for a, b in ADDITIONS], 270)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    transformers.Qwen3ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


class SftStage:
    """One SFT stage on the sums, or on both sets where the recipe has phases."""

    def __init__(
        self, server: S3Server, prefix: str, model: Path, recipe: SftRecipe, resources: Resources
    ) -> None:
        self.environment = server.environment | {"K15_S3_PREFIX": f"test/{prefix}"}
        self.store = Store.from_environment(self.environment)
        self.job = self._job(model, recipe, resources)
        self.steps = Steps(self.store, self.job.key)
        self.uri = self.store.put_job(self.job)
        self._processes: list[subprocess.Popen[str]] = []

    def _job(self, model: Path, recipe: SftRecipe, resources: Resources) -> Job:
        inputs = Job(node="base", kind="base", version=1, recipe={}, inputs={})
        base = self.store.begin(inputs.key)
        base.add_directory("model", model)
        for name, rows in SETS.items():
            base.write_table(f"{name}/demonstrations.parquet", demonstrations_to_table(rows))
        made = self.store.commit(base, inputs, Provenance(), {})
        data = {f"data.{name}": made.ref(name) for name in SETS} if recipe.phases else {}
        return Job(
            node="sft",
            kind="sft",
            version=SftRecipe.version,
            recipe=recipe.resolved(),
            inputs={"model": made.ref("model"), **(data or {"data": made.ref("sums")})},
            resources=resources,
        )

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Run the stage; `command` is what follows python, but for the job."""
        process = subprocess.Popen(
            [sys.executable, *(command or ("-m", "stages.sft")), "--job", self.uri],
            cwd=ROOT,
            env=os.environ | self.environment | {"OMP_NUM_THREADS": "1"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def end_at(self, step: int, number: signal.Signals, delay_s: float) -> tuple[int, str, str]:
        """Start it, and send a signal a moment after the checkpoint of `step` or a later one is there."""
        process = self.start()
        deadline = time.monotonic() + DEADLINE_S
        while not any(record.number >= step for record in self.steps.records()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"no checkpoint of step {step}"
            time.sleep(0.1)
        time.sleep(delay_s)
        process.send_signal(number)
        return self.end(process)

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err

    def result(self) -> Manifest:
        manifest = self.store.manifest(self.job.key)
        assert manifest is not None
        return manifest

    def metrics(self) -> list[dict[str, float]]:
        """Every step's, without those that measure time."""
        lines = self.store.open_manifest(self.result()).read_bytes("metrics.jsonl").splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_s"} for line in lines]

    def kill(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@contextmanager
def sft_stage(
    server: S3Server, prefix: str, model: Path, recipe: SftRecipe, resources: Resources | None = None
) -> Iterator[SftStage]:
    """The stage; every process it started is gone at the end."""
    made = SftStage(server, prefix, model, recipe, resources or Resources())
    try:
        yield made
    finally:
        made.kill()
