"""An RL stage whose samplers others started: from a list and from etcd, over TCP; they come, die and stay."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from k15.engines.directory import SamplerDirectory
from k15.store.rollouts import SEGMENTS_FILE
from tests.e2e.driver import wait_for
from tests.etcd import etcd_server
from tests.ledger import Watch, account
from tests.rl_stage import ENGINE, ROOT, SHORT, SHORT_STEPS, RlStage, weights_digest
from tests.s3 import s3_server

pytestmark = [pytest.mark.engine, pytest.mark.services, pytest.mark.slow]
RECIPE = {**SHORT, "rounds": 8, "transport": "tcp"}
TOKEN = "of the samplers and of the stage"


class Replicas:
    """Samplers started by hand, each on an address of its own."""

    def __init__(self, rl: RlStage, stack: ExitStack) -> None:
        self._rl, self._stack = rl, stack
        self._ledger = rl.ledger(rl.rl(RECIPE, steps=SHORT_STEPS))  # where they sample is in no key
        self._number = 1

    def start(self, *options: str, model: str = "", token: str = TOKEN) -> tuple[str, psutil.Process]:
        """Its address, once it serves."""
        self._number += 1
        host = f"127.0.0.{self._number}"
        named = model or self._rl.prepare(SHORT_STEPS).ref("model").key + ":model"
        log = self._stack.enter_context((self._rl.folder / f"replica-{host}.log").open("wb"))
        process = subprocess.Popen(
            [ENGINE, "-m", "stages.replica", "--model", named, "--host", host, *options],
            cwd=ROOT,
            env={
                **os.environ,
                **self._rl.environment,
                "K15_SERVICE_TOKEN": token,
                "K15_TOKEN_LEDGER": str(self._ledger),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self._stack.callback(end, process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("replica="), (self._rl.folder / f"replica-{host}.log").read_text()[-3000:]
        return line.strip().removeprefix("replica="), psutil.Process(process.pid)


def end(process: "subprocess.Popen[str]") -> None:
    """As its user does."""
    process.terminate()
    process.communicate(timeout=30)


def engine(replica: psutil.Process) -> psutil.Process:
    """The process in which it samples."""
    (found,) = [one for one in replica.children() if "stages.sampler" in one.cmdline()]
    return found


@pytest.fixture
def rl(tmp_path: Path) -> Iterator[RlStage]:
    with s3_server(tmp_path / "s3") as server:
        stage = RlStage(server, "elsewhere", tmp_path / "rl")
        stage.environment["K15_SERVICE_TOKEN"] = TOKEN
        yield stage
        stage.end()


def test_samplers_of_a_list_and_of_etcd_sample_what_one_here_would(rl: RlStage, tmp_path: Path) -> None:
    with etcd_server(tmp_path / "etcd") as etcd, ExitStack() as stack:
        replicas = Replicas(rl, stack)
        listed, first = replicas.start("--max-tokens", "128")
        found, second = replicas.start("--max-tokens", "128")
        job = rl.rl(
            RECIPE, steps=SHORT_STEPS, replicas=0, samplers=(listed,), etcd=etcd.url, sampler_pool="mine"
        )
        process, log = rl.start(job), rl.log_path(job)
        wait_for(lambda: "round=0 at=begun" in log.read_text(), "round 0", timeout_s=120)
        stack.enter_context(SamplerDirectory(etcd.url, "mine").announced(found))
        wait_for(lambda: f"replica={found} joins" in log.read_text(), "a late one", every_s=0.01)
        engine(first).send_signal(signal.SIGKILL)
        assert process.wait(600) == 0, rl.log(job)[-4000:]
        rows = [record.state["row"] for record in rl.rounds(job)]
        assert len(rows) == RECIPE["rounds"]
        assert sum(row["replicas_lost"] for row in rows) == 1
        assert engine(second).is_running()
        figures = account(rl, job, Watch())
        assert [figures[name] for name in ("prompts_skipped", "prompts_twice", "tokens_unaccounted")] == [
            0
        ] * 3

        again = rl.rl(
            {**RECIPE, "priority_prior": 0.4},
            steps=SHORT_STEPS,
            replicas=0,
            etcd=etcd.url,
            sampler_pool="mine",
        )
        rl.run(again)  # the one that is left serves the next run, whose versions begin anew
        alone = rl.rl({**RECIPE, "transport": "shared_memory"}, steps=SHORT_STEPS)
        rl.run(alone)
        for other in (job, again):
            for mine, theirs in zip(rl.rounds(other), rl.rounds(alone), strict=True):
                assert rl.table(mine, SEGMENTS_FILE) == rl.table(theirs, SEGMENTS_FILE)
            assert weights_digest(rl.manifest(other)) == weights_digest(rl.manifest(alone))
