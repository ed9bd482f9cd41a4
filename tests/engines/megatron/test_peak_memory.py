"""The formulas of `k15 size` against what the trainer really holds on CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from k15.recipes.pipeline import Layout
from k15.sizing import shape
from k15.sizing.memory import Training, fullest
from k15.sizing.workload import Workload

pytestmark = [pytest.mark.engine, pytest.mark.slow]
ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("peak_memory.py")
TOLERANCE = 0.15
SIZES: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
}
CASES = (
    # family, layers, vocabulary, tied, row tokens, rows, precision, recompute
    ("qwen3", 6, 512, False, 512, 2, "float32", False),
    ("qwen3", 6, 512, False, 512, 4, "float32", False),
    ("llama", 4, 512, True, 1024, 1, "float32", False),
    ("qwen2", 2, 40_000, False, 64, 2, "float32", False),  # weights, not activations
    ("qwen2", 1, 20_000, True, 1024, 2, "float32", False),  # the loss
    ("qwen3", 4, 512, False, 512, 3, "bfloat16", False),
    ("qwen3", 8, 512, False, 512, 3, "float32", True),
)


def make_model(directory: Path, family: str, layers: int, vocabulary: int, tied: bool) -> Path:
    import torch
    import transformers

    kinds = {
        "llama": transformers.LlamaConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
    }
    config = kinds[family](vocab_size=vocabulary, num_hidden_layers=layers, tie_word_embeddings=tied, **SIZES)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
    return directory


def measured(cases: list[dict[str, Any]]) -> list[int]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(cases)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_formulas_foretell_the_peak_of_a_real_step(tmp_path: Path) -> None:
    cases, foretold = [], []
    for number, case in enumerate(CASES):
        family, layers, vocabulary, tied, row_tokens, num_rows, precision, recompute = case
        model = make_model(tmp_path / str(number), family, layers, vocabulary, tied)
        tokens = row_tokens * num_rows
        work = Workload(row_tokens, tokens, tokens)
        training = Training(recompute, precision=precision, kernels="torch")
        foretold.append(fullest(shape.read(model), Layout(), work, training).total)
        cases.append(
            {"model": str(model), "row_tokens": row_tokens, "num_rows": num_rows}
            | {"precision": precision, "recompute": recompute}
        )
    found = measured(cases)
    shown = [(CASES[n], round(foretold[n] / 2**20), round(found[n] / 2**20)) for n in range(len(CASES))]
    print(shown)
    for one, other in zip(foretold, found, strict=True):
        assert abs(one - other) <= TOLERANCE * other, shown


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_counts_the_parameters_of_the_real_model(tmp_path: Path, family: str, tied: bool) -> None:
    import transformers

    directory = make_model(tmp_path / "model", family, 2, 512, tied)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    assert shape.read(directory).num_parameters == sum(p.numel() for p in model.parameters())
