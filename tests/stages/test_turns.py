"""An RL stage whose trainer and samplers take turns on the same devices, as one whose do not."""

import signal
from pathlib import Path

import psutil
import pytest

from k15.store.rollouts import SEGMENTS_FILE
from tests.e2e.driver import wait_for
from tests.rl_stage import SHORT, SHORT_STEPS, RlStage, weights_digest
from tests.s3 import s3_server
from tests.stages.test_replicas import below, samplers

pytestmark = [pytest.mark.engine, pytest.mark.services, pytest.mark.slow]
AGAIN = {**SHORT, "priority_prior": 0.4}  # another key; a uniform sampler does not read it
SWITCH = ("offload_s", "start_s", "update_s", "end_s", "onload_s")


def test_taking_turns_changes_no_token_and_no_weight(tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3") as server:
        rl = RlStage(server, "turns", tmp_path / "rl")
        try:
            shared = rl.rl(SHORT, steps=SHORT_STEPS, gpus_shared=True)
            said = rl.run(shared)
            apart = rl.rl(AGAIN, steps=SHORT_STEPS)
            rl.run(apart)
            for mine, other in zip(rl.rounds(shared), rl.rounds(apart), strict=True):
                assert rl.table(mine, SEGMENTS_FILE) == rl.table(other, SEGMENTS_FILE)
            assert weights_digest(rl.manifest(shared)) == weights_digest(rl.manifest(apart))
            rows = [record.state["row"] for record in rl.rounds(shared)]
            assert all(row[name] > 0 for row in rows for name in SWITCH)
            assert all(row["rollout_s"] + sum(row[n] for n in SWITCH) < row["wall_s"] for row in rows)
            assert all(0 < row["sampling_s"] < row["rollout_s"] + row["reward_s"] + 0.1 for row in rows)
            assert said.count("at=over") == SHORT["rounds"]
            assert not any(name in rl.rounds(apart)[0].state["row"] for name in ("offload_s", "end_s"))
        finally:
            rl.end()


@pytest.mark.soak
def test_a_sampler_killed_in_its_turn_or_waiting_is_replaced_and_a_killed_stage_leaves_nothing(
    tmp_path: Path,
) -> None:
    with s3_server(tmp_path / "s3") as server:
        rl = RlStage(server, "turns", tmp_path / "rl")
        try:
            job = rl.rl(SHORT, steps=SHORT_STEPS, gpus_shared=True, replicas=2)
            process = rl.start(job)
            log = rl.log_path(job)
            wait_for(lambda: len(samplers(process.pid)) == 2, "the first samplers", every_s=0.01)
            samplers(process.pid)[0].send_signal(signal.SIGKILL)  # while it waits
            wait_for(lambda: "round=1 at=begun" in log.read_text(), "round 1", timeout_s=240, every_s=0.01)
            victim = samplers(process.pid)[0]
            wait_for(
                lambda: "turn version=1 at=sampling" in log.read_text(),
                "its turn",
                timeout_s=240,
                every_s=0.005,
            )
            victim.send_signal(signal.SIGKILL)  # in its turn
            wait_for(lambda: len(rl.rounds(job)) == 2, "round 1", timeout_s=240)
            rows = [record.state["row"] for record in rl.rounds(job)]
            assert [row["replicas_lost"] for row in rows] == [1, 1]
            assert [row["responses_moved"] > 0 for row in rows] == [False, True]
            left = psutil.Process(process.pid).children(recursive=True)
            (stage,) = below(process.pid, "stages.rl")
            stage.kill()
            assert process.wait(120) != 0
            assert not psutil.wait_procs(left, timeout=30)[1]
            rl.run(job)
            alone = rl.rl(AGAIN, steps=SHORT_STEPS)
            rl.run(alone)
            assert weights_digest(rl.manifest(job)) == weights_digest(rl.manifest(alone))
        finally:
            rl.end()
