"""Stages whose ranks torchrun started: they wait for the first, however late it is, and end with it."""

import os
import subprocess
from pathlib import Path

import pytest

from k15.recipes.pipeline import Layout, Resources
from k15.recipes.supervised import SftRecipe
from tests.rl_stage import ENGINE, ROOT, RlStage, weights_digest
from tests.s3 import s3_server
from tests.stages.stored import make_model, sft_stage

pytestmark = [pytest.mark.engine, pytest.mark.services, pytest.mark.soak]
LATE_S = 40  # twice the time that ranks wait for each other in one operation
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")


def test_ranks_wait_for_a_leader_that_is_late_and_end_where_there_is_nothing_to_do(tmp_path: Path) -> None:
    recipe = SftRecipe(steps=2, examples_per_step=16)
    resources = Resources(layout=Layout(data=2))
    model = make_model(tmp_path / "model")
    with s3_server(tmp_path / "seaweed") as server, sft_stage(server, "t", model, recipe, resources) as stage:
        late = stage.start(*TORCHRUN, "-m", "tests.stages.late", str(LATE_S), TMPDIR=str(tmp_path))
        code, out, err = stage.end(late)
        assert code == 0, out[-2000:] + err[-3000:]
        assert "status=done" in out
        assert len(stage.metrics()) == 2
        code, out, err = stage.end(stage.start(*TORCHRUN, "-m", "stages.sft", TMPDIR=str(tmp_path)))
        assert (code, "status=cached" in out) == (0, True), out[-2000:] + err[-3000:]


def test_an_rl_stage_trains_on_the_ranks_of_torchrun_as_on_its_own(tmp_path: Path) -> None:
    """The first rank is the stage, whose trainer's service the others follow."""
    recipe = {
        "rounds": 3,
        "prompts_per_round": 12,
        "samples_per_prompt": 4,
        "max_response_tokens": 96,
        "phase_token_budget": 48,
        "update": {"lr": 1e-3},
    }
    with s3_server(tmp_path / "s3") as server:
        rl = RlStage(server, "torchrun", tmp_path / "rl")
        try:
            laid_out = {"layout": Layout(data=2), "cores": 2}
            job = rl.rl(recipe, steps=60, **laid_out)
            done = subprocess.run(
                [ENGINE, *TORCHRUN, "-m", "stages.rl", "--job", rl.store.put_job(job)],
                cwd=ROOT,
                env=os.environ | rl.environment,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
            own = rl.rl({**recipe, "priority_prior": 0.4}, steps=60, **laid_out)
            rl.run(own)
            assert weights_digest(rl.manifest(job)) == weights_digest(rl.manifest(own))
        finally:
            rl.end()
