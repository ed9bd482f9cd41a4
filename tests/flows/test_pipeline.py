"""The flow on a real Prefect server and a real store: cached, retried, refused, cancelled, killed."""

import signal
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from k15.store.gc import gc
from k15.store.runs import RunRecord
from tests.flows.driver import Flow, kill, wait_for
from tests.s3 import s3_server

pytestmark = [pytest.mark.control, pytest.mark.services]


@pytest.fixture(scope="module", autouse=True)
def first_run(flow: Flow) -> str:
    """Everything done once; the tests change one node's seed to have it run again."""
    code, output = flow.run()
    assert code == 0, output
    return output


def seed(number: int) -> tuple[str, str]:
    return "--set", f"nodes.sft.recipe.seed={number}"


def waiting(flow: Flow) -> bool:
    return any("time.sleep(600)" in line for line in flow.processes())


@pytest.fixture(scope="module")
def killed(flow: Flow, first_run: str) -> tuple[RunRecord, float]:
    """A run whose flow got SIGKILL while its stage ran, and when. Nothing of it is left."""
    flow.order("sft", "wait")
    process = flow.start(*seed(6))
    wait_for(lambda: waiting(flow), "the stage")
    killed_at = time.time()
    kill(process, signal.SIGKILL)
    (flow.orders / "sft").unlink()
    wait_for(lambda: flow.processes() == [], "the end of every process", timeout_s=10)
    return flow.record(), killed_at


def test_the_run_after_a_killed_one_executes_only_what_is_missing(
    flow: Flow, killed: tuple[RunRecord, float]
) -> None:
    code, output = flow.run(*seed(6))
    assert code == 0, output
    finished = flow.record()
    assert finished.run_id != killed[0].run_id
    assert [name for name, node in finished.nodes.items() if not node.cached] == ["sft"]


def test_a_second_run_finds_every_stage_in_less_than_a_second(flow: Flow) -> None:
    code, output = flow.run()
    assert code == 0, output
    record = flow.record()
    assert all(node.cached for node in record.nodes.values())
    tasks = flow.tasks(record)
    for name in record.nodes:
        assert tasks[name]["state_name"] == "Cached"
        assert tasks[name]["total_run_time"] < 1.0


def test_independent_stages_run_at_the_same_time_and_lines_reach_prefect(flow: Flow) -> None:
    for node in ("sft", "other"):
        flow.order(node, "slow")
    code, output = flow.run(*seed(1), "--set", "nodes.other.recipe.seed=1")
    assert code == 0, output
    record = flow.record()
    sft, other = record.nodes["sft"], record.nodes["other"]
    assert datetime.fromisoformat(sft.started) < datetime.fromisoformat(other.ended)
    assert datetime.fromisoformat(other.started) < datetime.fromisoformat(sft.ended)
    (flow.orders / "sft").unlink()
    (flow.orders / "other").unlink()

    def lines() -> list[str]:
        wanted = {"logs": {"task_run_id": {"any_": [sft.prefect_task_run_id]}}}
        return [row["message"] for row in flow.api("logs/filter", wanted)]

    wait_for(lambda: "node=sft order='slow'" in lines(), "the stage's line in Prefect")


def test_a_fault_is_retried_and_only_the_failed_stage_runs_again(flow: Flow) -> None:
    flow.order("sft", "fail")
    code, output = flow.run(*seed(2))
    assert code == 0, output
    record = flow.record()
    assert {name: node.cached for name, node in record.nodes.items() if not node.cached} == {"sft": False}
    assert record.nodes["sft"].attempts == 2
    assert flow.tasks(record)["sft"]["run_count"] == 2


def test_bad_input_is_not_retried_and_its_last_lines_are_shown(flow: Flow) -> None:
    flow.order("sft", "bad input")
    code, output = flow.run(*seed(3), "--set", "nodes.sft.resources.retries=2")
    (flow.orders / "sft").unlink()
    assert code == 2
    assert "nodes.x.recipe.y: wrong by order" in output and "Traceback" not in output
    record = flow.record()
    assert record.nodes["sft"].attempts == 1
    assert flow.store.manifest(record.nodes["sft"].key) is None
    assert "wrong by order" in flow.tasks(record)["sft"]["state"]["message"]
    assert flow.flow_state(record) == "BadInput"
    assert flow.retry(record) == "ABORT", "Prefect reschedules only the runs of a deployment"


def test_debug_shows_the_trace_of_a_stage_and_changes_no_key(flow: Flow) -> None:
    flow.order("sft", "bad input")
    plain = flow.run(*seed(9))
    key = flow.record().nodes["sft"].key
    code, output = flow.run(*seed(9), "--debug")
    (flow.orders / "sft").unlink()
    assert plain[0] == code == 2
    assert "Traceback" in output and "ValueError: nodes.x.recipe.y: wrong by order" in output
    assert flow.record().nodes["sft"].key == key
    code, output = flow.run("--set", "nodes.sft.recipe.stepps=1", "--debug")
    assert code == 2 and "Traceback" in output
    assert output.splitlines()[-1].startswith("k15 run: ")


def test_a_stage_that_runs_too_long_is_ended(flow: Flow) -> None:
    flow.order("sft", "wait")
    limits = ("--set", "nodes.sft.resources.timeout_s=8.0", "--set", "nodes.sft.resources.retries=0")
    code, output = flow.run(*seed(7), *limits)
    (flow.orders / "sft").unlink()
    assert code == 1
    assert "sft: ran longer than 8 s" in output
    assert flow.processes() == []


def test_a_wrong_recipe_is_refused_before_anything_starts(flow: Flow) -> None:
    before = flow.record().run_id
    code, output = flow.run("--set", "nodes.sft.recipe.stepps=1")
    assert code == 2
    assert "nodes.sft.recipe" in output and "stepps" in output and "Traceback" not in output
    assert flow.record().run_id == before


def test_the_record_of_a_running_flow_says_what_is_found_done_and_what_runs(flow: Flow) -> None:
    flow.order("sft", "wait")
    process = flow.start(*seed(8))
    wait_for(lambda: waiting(flow), "the stage")
    wait_for(lambda: flow.record().nodes["other"].state == "done", "the other branch's record")
    nodes = flow.record().nodes
    swept = gc(flow.store, keep=[], dry_run=True, grace_s=-5)
    kill(process, signal.SIGTERM)
    (flow.orders / "sft").unlink()
    assert nodes["sft"].state == "running" and nodes["sft"].key
    found = {name: node for name, node in nodes.items() if name != "sft"}
    assert all(node.state == "done" and node.cached for node in found.values())
    assert {node.key for node in found.values()}.isdisjoint(swept.stages)


def test_a_store_that_dies_under_a_run_is_one_message(flow: Flow, tmp_path: Path) -> None:
    with s3_server(tmp_path / "seaweed") as server:
        own = replace(flow, environment={**flow.environment, **server.environment})
        own.order("base", "wait")
        limits = ("--set", "nodes.base.resources.timeout_s=6.0", "--set", "nodes.base.resources.retries=0")
        process = own.start(*limits)
        wait_for(lambda: waiting(own), "the stage")
        server.kill()
        output, _ = process.communicate(timeout=120)
        (own.orders / "base").unlink()
    assert process.returncode == 2, output
    last = output.splitlines()[-1]
    assert last.startswith("k15 run: s3://") and "no answer" in last and "make up" in last
    assert "Traceback" not in output
    assert own.processes() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_children_and_cancels_the_run(flow: Flow, number: signal.Signals) -> None:
    flow.order("sft", "wait")
    process = flow.start(*seed(4))
    wait_for(lambda: waiting(flow), "the stage")
    output = kill(process, number)
    (flow.orders / "sft").unlink()
    assert process.returncode == 130, output
    assert flow.processes() == []
    record = flow.record()
    assert record.state == "cancelled" and record.nodes["sft"].state == "cancelled"
    assert flow.flow_state(record) == "Cancelled"


def test_cancel_in_prefect_ends_the_children(flow: Flow) -> None:
    flow.order("sft", "wait")
    process = flow.start(*seed(5))
    wait_for(lambda: waiting(flow), "the stage")
    state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    flow.api(f"flow_runs/{flow.record().prefect_flow_run_id}/set_state", state)
    output, _ = process.communicate(timeout=60)
    (flow.orders / "sft").unlink()
    assert process.returncode == 130, output
    assert flow.processes() == []
    assert flow.flow_state(flow.record()) == "Cancelled"


@pytest.mark.slow
def test_the_killed_flow_is_marked_crashed_within_90_seconds(
    flow: Flow, killed: tuple[RunRecord, float]
) -> None:
    record, killed_at = killed
    wait_for(lambda: flow.flow_state(record) == "Crashed", "the mark on the killed flow", timeout_s=90)
    marked = flow.flow_run(record.prefect_flow_run_id)
    seconds = datetime.fromisoformat(marked["state"]["timestamp"]).timestamp() - killed_at
    print(f"marked {seconds:.0f} s after the kill")
    assert seconds <= 90
