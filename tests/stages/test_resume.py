"""A real SFT stage, killed again and again: its weights are those of one that was left alone, to the bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from k15.recipes.pipeline import Resources
from k15.recipes.supervised import Optimizer, SftRecipe
from k15.store.artifact import Store
from k15.store.gc import gc
from k15.store.job import Job
from k15.store.manifest import Manifest, Provenance
from k15.store.steps import Steps
from k15.store.tables import Demonstration, demonstrations_to_table
from tests.s3 import S3Server, s3_server

pytestmark = [pytest.mark.engine, pytest.mark.services, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
STEPS = 60
EVERY = 4
DEADLINE_S = 600.0
ADDITIONS = [(a, b) for a in range(40) for b in range(40)]


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server of these tests."""
    with s3_server(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    directory = tmp_path_factory.mktemp("model")
    transformers.Qwen3ForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


class SftStage:
    """One SFT stage in a store of its own; every process it starts is gone at the end."""

    def __init__(self, server: S3Server, prefix: str, model: Path) -> None:
        self.environment = server.environment | {"K15_S3_PREFIX": f"test/{prefix}"}
        self.store = Store.from_environment(self.environment)
        self.job = self._job(model)
        self.steps = Steps(self.store, self.job.key)
        self._uri = self.store.put_job(self.job)
        self._processes: list[subprocess.Popen[str]] = []

    def _job(self, model: Path) -> Job:
        inputs = Job(node="base", kind="base", version=1, recipe={}, inputs={})
        base = self.store.begin(inputs.key)
        base.add_directory("model", model)
        rows = [Demonstration(f"{a} + {b} =", str(a + b), "direct", "sum") for a, b in ADDITIONS]
        base.write_table("sft/demonstrations.parquet", demonstrations_to_table(rows))
        made = self.store.commit(base, inputs, Provenance(), {})
        recipe = SftRecipe(
            steps=STEPS, examples_per_step=128, optimizer=Optimizer(lr=3e-3, final_lr=1e-3, warmup_steps=4)
        )
        return Job(
            node="sft",
            kind="sft",
            version=SftRecipe.version,
            recipe=recipe.resolved(),
            inputs={"model": made.ref("model"), "data": made.ref("sft")},
            resources=Resources(checkpoint_every_steps=EVERY),
        )

    def start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.sft", "--job", self._uri],
            cwd=ROOT,
            env=os.environ | self.environment | {"OMP_NUM_THREADS": "1"},
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


@pytest.fixture
def undisturbed(seaweed: S3Server, model_directory: Path) -> Iterator[SftStage]:
    made = SftStage(seaweed, "undisturbed", model_directory)
    yield made
    made.kill()


@pytest.fixture
def disturbed(seaweed: S3Server, model_directory: Path) -> Iterator[SftStage]:
    made = SftStage(seaweed, "disturbed", model_directory)
    yield made
    made.kill()


def resumed_at(out: str) -> int:
    return int(out.partition("resumed step=")[2].split()[0])


def test_killed_at_random_steps_it_ends_with_the_same_weights(
    undisturbed: SftStage, disturbed: SftStage
) -> None:
    assert undisturbed.job.key == disturbed.job.key
    reference = undisturbed.start()
    source = random.Random(7)
    last = 0
    for lowest in (4, 16, 28):
        code, out, _ = disturbed.end_at(lowest + source.randrange(8), signal.SIGKILL, source.random() * 0.3)
        assert code == -signal.SIGKILL
        assert last == (resumed_at(out) if last else 0)
        record = disturbed.steps.last()
        assert record is not None
        assert last < record.number < STEPS
        last = record.number
        assert last % EVERY == 0
    code, out, err = disturbed.end_at(last + EVERY, signal.SIGTERM, 0.1)
    assert (code, resumed_at(out)) == (1, last)
    record = disturbed.steps.last()
    assert record is not None
    assert f"error: stopped after step {record.number} of {STEPS}" in err
    assert len(disturbed.steps.records()) == 2

    weights = next(entry for entry in record.files if entry.path == "trainer/exp_avg/model.safetensors")
    path = f"attempts/{disturbed.job.key}/{record.attempt}/{weights.path}"
    whole = disturbed.store.objects.get(path)
    disturbed.store.objects.put(path, whole[:-100])
    code, out, err = disturbed.end(disturbed.start())
    assert (code, "progress" in out) == (2, False)
    assert err.startswith(f"error: {disturbed.store.objects.uri(path)}: corrupt")
    assert f"delete {disturbed.steps.uri(record)}" in err
    disturbed.store.objects.put(path, whole)

    code, out, err = disturbed.end(disturbed.start())
    assert (code, resumed_at(out)) == (0, record.number), err
    assert disturbed.store.objects.list("steps/") == []
    gc(disturbed.store, grace_s=-5)
    attempts = disturbed.store.objects.list(f"attempts/{disturbed.job.key}/")
    assert {info.path.split("/")[2] for info in attempts} == {disturbed.result().attempt}

    assert undisturbed.end(reference)[0] == 0
    assert undisturbed.result().part_digest("model") == disturbed.result().part_digest("model")
    assert [row["step"] for row in disturbed.metrics()] == list(range(STEPS))
    assert disturbed.metrics() == undisturbed.metrics()
