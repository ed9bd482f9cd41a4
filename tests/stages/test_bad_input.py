"""Models and data that cannot be trained on end a stage with exit code 2 before its first step."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from k15.recipes.data import BaseRecipe
from k15.recipes.supervised import SftRecipe
from k15.store.artifact import Store
from k15.store.job import Job
from k15.store.manifest import InputRef, Provenance
from k15.store.tables import Demonstration, demonstrations_to_table, encode_table
from k15.tasks.tokenizer import train_tokenizer
from tests.s3 import s3_server

pytestmark = [pytest.mark.engine, pytest.mark.services, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
SHARDS = 2
INDEX = "model.safetensors.index.json"


def set_fields(**fields: Any) -> Callable[[Path], None]:
    """Change the model's config.json."""

    def spoil(model: Path) -> None:
        path = model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


def truncate(name: str) -> Callable[[Path], None]:
    """Keep the first half of a file."""

    def spoil(model: Path) -> None:
        path = model / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return spoil


def remove(*names: str) -> Callable[[Path], None]:
    """Lose files."""

    def spoil(model: Path) -> None:
        for name in names:
            (model / name).unlink()

    return spoil


def foreign_tokenizer(model: Path) -> None:
    """Another model's tokenizer, of more tokens than this model has."""
    train_tokenizer([f"{n} {n * n}" + chr(200 + n) * 3 for n in range(300)], 400).save_pretrained(model)


SECOND_SHARD = f"model-00002-of-{SHARDS:05d}.safetensors"
SPOILT: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "family": (set_fields(model_type="gpt2"), ("config.json", "'model_type': 'gpt2'", "llama, qwen2, qwen3")),
    "field": (set_fields(final_logit_softcapping=30.0), ("config.json", "{'final_logit_softcapping': 30.0}")),
    "rope": (set_fields(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}), ("rope_type", "yarn")),
    "window": (set_fields(layer_types=["sliding_attention"] * 2), ("layer_types", "sliding_attention")),
    "tokenizer": (foreign_tokenizer, ("tokenizer is not this model's", "vocab_size is")),
    "end": (set_fields(eos_token_id=151645), ("tokenizer is not this model's", "no token 151645")),
    "no tokenizer": (remove("tokenizer.json"), ("no tokenizer; it needs one of tokenizer.json",)),
    "cut tokenizer": (truncate("tokenizer.json"), ("its tokenizer cannot be read",)),
    "cut shard": (truncate(SECOND_SHARD), (SECOND_SHARD, "fetch the model again")),
    "no shard": (remove(SECOND_SHARD), (f"{SECOND_SHARD}: no such file, but {INDEX} names it",)),
    "cut index": (truncate(INDEX), (f"{INDEX}: not an index of shards",)),
}


@dataclass(frozen=True)
class Ended:
    """How a stage ended."""

    code: int
    out: str
    err: str
    key: str


class Workshop:
    """A store with a data set, and jobs on it; all of them end in `run`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.store = Store.from_environment(environment)
        self._jobs: dict[str, Job] = {}
        self._models: dict[Path, InputRef] = {}
        rows = [Demonstration(f"{n} + 1 =", f"{n + 1:020}", "direct", "sum") for n in range(8)]
        table = encode_table(demonstrations_to_table(rows))
        self._data = self._commit("data", {"demonstrations.parquet": table})

    def train(self, name: str, model: Path, **recipe: Any) -> None:
        """A job of SFT on the model."""
        values = {"steps": 1, "examples_per_step": 4, "max_tokens": 32} | recipe
        self._jobs[name] = Job(
            node="sft",
            kind=SftRecipe.kind,
            version=SftRecipe.version,
            recipe=SftRecipe.parse(values, where=name).resolved(),
            inputs={"model": self._model(model), "data": self._data},
        )

    def take(self, name: str, model: Path) -> None:
        """A job of the base stage on a user's directory."""
        self._jobs[name] = Job(
            node="base",
            kind=BaseRecipe.kind,
            version=BaseRecipe.version,
            recipe=BaseRecipe(source="directory").resolved(),
            inputs={"model": self._model(model)},
        )

    def run(self) -> dict[str, Ended]:
        """Every job, in a process of its own."""
        calls = [(job.kind, self.store.put_job(job)) for job in self._jobs.values()]
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("forked.py")), json.dumps(calls)],
            cwd=ROOT,
            env=os.environ | self.environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        ends = json.loads(done.stdout.splitlines()[-1])
        return {name: Ended(*end, job.key) for (name, job), end in zip(self._jobs.items(), ends, strict=True)}

    def _model(self, model: Path) -> InputRef:
        if model not in self._models:
            files = {f"model/{path.name}": path.read_bytes() for path in sorted(model.iterdir())}
            self._models[model] = self._commit(model.name, files, part="model")
        return self._models[model]

    def _commit(self, node: str, files: dict[str, bytes], part: str = "") -> InputRef:
        job = Job(node=node, kind="data", version=1, recipe={"node": node})
        attempt = self.store.begin(job.key)
        for path, data in files.items():
            attempt.write_bytes(path, data)
        return self.store.commit(attempt, job, Provenance(), {}).ref(part)


def save_model(directory: Path) -> Path:
    """A tiny Qwen3 in two shards, with its tokenizer."""
    import torch
    import transformers

    tokenizer = train_tokenizer([f"{n} + 1 = {n + 1}" for n in range(8)], 270)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    transformers.Qwen3ForCausalLM(config).save_pretrained(directory, max_shard_size="80KB")
    tokenizer.save_pretrained(directory)
    assert len(list(directory.glob("*.safetensors"))) == SHARDS
    return directory


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, dict[str, Ended]]]:
    """Every job of this file, run."""
    folder = tmp_path_factory.mktemp("models")
    good = save_model(folder / "good")
    with s3_server(folder / "seaweed") as server:
        shop = Workshop(server.environment | {"K15_S3_PREFIX": "bad-input"})
        shop.train("good", good)
        shop.train("long rows", good, max_tokens=16)
        for name, (spoil, _) in SPOILT.items():
            spoilt = Path(shutil.copytree(good, folder / name.replace(" ", "-")))
            spoil(spoilt)
            shop.train(name, spoilt)
            if name in ("cut shard", "no shard", "tokenizer"):
                shop.take(f"base: {name}", spoilt)
        yield shop.store, shop.run()


def assert_refused(store: Store, end: Ended, *named: str) -> None:
    assert end.code == 2, end.err
    assert all(text in end.err for text in named), end.err
    assert "Traceback" not in end.err
    assert "what=steps" not in end.out  # not a step was made
    assert store.manifest(end.key) is None


def test_the_model_as_it_was_trains(ended: tuple[Store, dict[str, Ended]]) -> None:
    store, ends = ended
    assert ends["good"].code == 0, ends["good"].err
    assert "progress done=1 total=1 what=steps" in ends["good"].out
    assert store.manifest(ends["good"].key) is not None


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_model_is_refused_before_the_first_step(
    ended: tuple[Store, dict[str, Ended]], name: str
) -> None:
    store, ends = ended
    assert_refused(store, ends[name], *SPOILT[name][1])


def test_rows_longer_than_the_recipe_s_are_refused(ended: tuple[Store, dict[str, Ended]]) -> None:
    store, ends = ended
    assert_refused(store, ends["long rows"], "max_tokens=16", "raise max_tokens")


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("cut shard", "fetch the model again"),
        ("no shard", SECOND_SHARD),
        ("tokenizer", "the tokenizer is not this model's"),
    ],
)
def test_the_base_stage_refuses_a_spoilt_directory(
    ended: tuple[Store, dict[str, Ended]], name: str, named: str
) -> None:
    store, ends = ended
    assert_refused(store, ends[f"base: {name}"], named)
