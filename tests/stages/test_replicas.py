"""An RL stage with two samplers, one of which is killed in the middle of a round."""

import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from k15.store.rollouts import SEGMENTS_FILE
from tests.e2e.driver import wait_for
from tests.ledger import Watch, account
from tests.rl_stage import SHORT, SHORT_STEPS, RlStage, weights_digest
from tests.s3 import s3_server

pytestmark = [pytest.mark.engine, pytest.mark.services, pytest.mark.slow]


def samplers(root: int) -> list[psutil.Process]:
    """The sampler processes below one."""
    return below(root, "stages.sampler")


def below(root: int, module: str) -> list[psutil.Process]:
    """The processes below one that run a module."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if module in process.cmdline():
                found.append(process)
    return found


def test_a_replica_killed_in_a_phase_costs_nothing_and_the_phase_ends(tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3") as server:
        rl = RlStage(server, "replicas", tmp_path / "rl")
        try:
            job = rl.rl(SHORT, steps=SHORT_STEPS, replicas=2)
            process = rl.start(job)
            log = rl.log_path(job)
            wait_for(lambda: "round=1 at=begun" in log.read_text(), "round 1", every_s=0.01)
            samplers(process.pid)[0].send_signal(signal.SIGKILL)
            assert process.wait(600) == 0, rl.log(job)[-4000:]
            rows = [record.state["row"] for record in rl.rounds(job)]
            assert sum(row["replicas_lost"] for row in rows) == 1
            assert rows[0]["replicas"] == 2
            figures = account(rl, job, Watch())
            names = ("prompts_skipped", "prompts_twice", "tokens_unaccounted")
            assert [figures[name] for name in names] == [0, 0, 0]
            alone = rl.rl(
                {**SHORT, "priority_prior": 0.4}, steps=SHORT_STEPS
            )  # which a uniform one does not read
            rl.run(alone)
            for mine, other in zip(rl.rounds(job), rl.rounds(alone), strict=True):
                assert rl.table(mine, SEGMENTS_FILE) == rl.table(other, SEGMENTS_FILE)
            assert weights_digest(rl.manifest(job)) == weights_digest(rl.manifest(alone))
        finally:
            rl.end()
