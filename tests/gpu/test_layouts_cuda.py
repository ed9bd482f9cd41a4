"""Layouts over several GPUs, with NCCL and TransformerEngine. Needs two GPUs:

python -m pytest tests/gpu/test_layouts_cuda.py -m gpu
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
    pytest.mark.filterwarnings("default"),
]
ROOT = Path(__file__).parents[2]
LAYOUTS = {
    "tensor": {"tensor": 2},
    "sequence": {"tensor": 2, "sequence": True},
    "pipeline": {"pipeline": 2},
    "context": {"context": 2},
    "data": {"data": 2},
}


def laid_out(model: Path, layout: dict[str, Any]) -> dict[str, list[float]]:
    """What tests.gpu.laid_out prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.laid_out", str(model), json.dumps(layout)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_DEVICE_MAX_CONNECTIONS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def alone(cuda_model: Path) -> dict[str, list[float]]:
    """One GPU's figures."""
    return laid_out(cuda_model, {})


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_two_gpus_train_as_one_does(
    cuda_model: Path, alone: dict[str, list[float]], layout: dict[str, Any]
) -> None:
    found = laid_out(cuda_model, layout)
    assert found["logprobs"] == pytest.approx(alone["logprobs"], abs=0.05)
    assert found["losses"] == pytest.approx(alone["losses"], rel=0.02)
    assert found["losses"][-1] < found["losses"][0]


def test_more_ranks_than_gpus_are_refused(cuda_model: Path) -> None:
    gpus = torch.cuda.device_count()
    with pytest.raises(AssertionError, match=rf"with {gpus} GPUs, and no two share one"):
        laid_out(cuda_model, {"data": gpus + 1})
