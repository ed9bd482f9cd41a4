"""Two data-parallel ranks under torchrun do what one process does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engines.megatron.conftest import MakeModel
from tests.engines.megatron.two_ranks import train

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron"),
]
ROOT = Path(__file__).parents[3]


def test_two_ranks_end_where_one_does(make_model: MakeModel, tmp_path: Path) -> None:
    directory, _ = make_model()
    alone = train(directory, tmp_path / "one")
    script = Path(__file__).with_name("two_ranks.py")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
            *(str(script), str(directory), str(tmp_path / "two")),
        ],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [float(value) for value in done.stdout.split()] == pytest.approx(alone, abs=2e-5)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
