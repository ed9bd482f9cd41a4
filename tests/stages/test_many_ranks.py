"""A stage whose resources name a layout leads its ranks, fits the same model and evaluates several alike."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from k15.recipes.pipeline import Layout
from tests.stages.local import LocalInput
from tests.stages.many_ranks import fit, probe

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron"),
]
ROOT = Path(__file__).parents[2]


def over_two_ranks(*arguments: str) -> Any:
    """What a stage prints at its end, in a process of its own that leads another."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stages.many_ranks", *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_stage_over_two_ranks_fits_the_same_model(model: LocalInput, tmp_path: Path) -> None:
    alone = [row["loss"] for row in fit(model.directory, tmp_path / "one", Layout())]
    rows = over_two_ranks("fit", str(tmp_path / "two"), json.dumps({"pipeline": 2}), str(model.directory))
    assert [row["loss"] for row in rows] == pytest.approx(alone, abs=1e-4)
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_a_run_goes_on_over_other_ranks_than_it_began_on(model: LocalInput, tmp_path: Path) -> None:
    """Every rank reads the checkpoint before the stage removes it."""
    fit(model.directory, tmp_path / "one", Layout())
    began = over_two_ranks("stop", str(tmp_path / "two"), json.dumps({"context": 2}), str(model.directory))
    assert [row["step"] for row in began] == [0, 1]
    one = load_file(tmp_path / "one/model/model.safetensors")
    for name, layout in (("pipe", {"pipeline": 2}), ("data", {"data": 2})):
        rows = over_two_ranks("fit", str(tmp_path / name), json.dumps(layout), str(model.directory))
        assert [row["step"] for row in rows] == [0, 1, 2]
        assert rows[:2] == began
        ended = load_file(tmp_path / name / "model/model.safetensors")
        assert all(torch.allclose(one[key], ended[key], atol=1e-5) for key in one)


def test_the_evaluation_of_several_models_over_two_ranks(model: LocalInput, tmp_path: Path) -> None:
    models = [model.directory, model.directory]
    alone = probe(models, tmp_path / "one", Layout())
    found = over_two_ranks("probe", str(tmp_path / "two"), json.dumps({"context": 2}), *map(str, models))
    assert found == json.loads(json.dumps(alone))
