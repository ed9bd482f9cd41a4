"""A stage whose resources name a layout leads its ranks, and fits the same model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from k15.recipes.pipeline import Layout
from tests.stages.local import LocalInput
from tests.stages.many_ranks import run

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron"),
]
ROOT = Path(__file__).parents[2]


def test_a_stage_over_two_ranks_fits_the_same_model(model: LocalInput, tmp_path: Path) -> None:
    alone = [row["loss"] for row in run(model.directory, tmp_path / "one", Layout())]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.stages.many_ranks"),
            *(str(model.directory), str(tmp_path / "two"), json.dumps({"pipeline": 2})),
        ],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(alone, abs=1e-4)
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
