"""A trainer of several processes: led like one, and no process outlives another's death."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from k15.engines.megatron.trainer import MegatronTrainer
from k15.recipes.supervised import Optimizer
from tests.engines.megatron import layouts
from tests.engines.megatron.conftest import MakeModel
from tests.engines.megatron.leading import FOLDER

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron"),
]


def start(mode: str, model: Path, layout: dict[str, int], output: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.engines.megatron.leading"),
            *(mode, str(model), json.dumps(layout), str(output)),
        ],
        cwd=layouts.ROOT,
        env={"PYTHONPATH": str(layouts.ROOT), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_led_trainer_trains_like_one_process_and_ends_when_a_rank_dies(
    make_model: MakeModel, tmp_path: Path
) -> None:
    model = make_model(vocabulary=layouts.VOCABULARY)[0]
    leader = start("train", model, {"tensor": 2}, tmp_path / "two")
    alone = MegatronTrainer(model, threads=1, max_tokens_per_microbatch=layouts.LIMIT)
    alone.reset_optimizer(Optimizer(adam_epsilon=1.0))
    loss = alone.supervised_step(layouts.some_rows(), lr=1e-2)["loss"]
    alone.save(tmp_path / "one")
    out, errors = leader.communicate(timeout=240)
    assert float(out.split()[1]) == pytest.approx(loss, abs=1e-5), errors[-3000:]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    assert leader.returncode == 1, errors[-3000:]
    assert "not noticed" not in out


def test_followers_end_with_a_leader_that_is_killed(make_model: MakeModel, tmp_path: Path) -> None:
    leader = start("wait", make_model()[0], {"data": 2}, tmp_path)
    assert leader.stdout is not None
    follower = int(leader.stdout.readline().split()[1])
    leader.kill()
    leader.communicate()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{follower}/cmdline").is_file() and b"ranks" in cmdline(follower):
        assert time.monotonic() < deadline, "the follower outlives its leader"
        time.sleep(0.1)


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_what_only_a_follower_finds_wrong_is_raised_by_the_leader(
    make_model: MakeModel, tmp_path: Path
) -> None:
    """A state to go on from that only the leader sees, as on hosts without a folder in common."""
    model, _ = make_model(tied=False)
    leader = start("resume", model, {"pipeline": 2}, tmp_path / "state")
    _, errors = leader.communicate(timeout=240)
    assert leader.returncode == 1
    assert re.search(rf"ValueError: rank 1: /proc/self/fd/{FOLDER}/\S+: no such file", errors)
