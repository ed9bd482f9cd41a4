"""A stage whose ranks torchrun started: they wait for the first, however late it is, and end with it."""

from pathlib import Path

import pytest

from k15.recipes.pipeline import Layout, Resources
from k15.recipes.supervised import SftRecipe
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
