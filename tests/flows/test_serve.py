"""A pipeline served as a deployment of a real Prefect server: scheduled, run, retried, ended."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.flows.driver import PACKAGE, RECIPE, Flow, kill, wait_for

pytestmark = [pytest.mark.control, pytest.mark.services]

CRON = "0 3 * * *"
SEED = "nodes.other.recipe.seed=8"


@pytest.fixture(scope="module")
def server(flow: Flow) -> Iterator["subprocess.Popen[str]"]:
    """`python -m flows.serve`, ready to start runs."""
    quick = Flow({**flow.environment, "PREFECT_RUNNER_POLL_FREQUENCY": "1"}, flow.orders)
    process = quick.python("flows.serve", RECIPE, "--cron", CRON, "--set", SEED)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving k15/quick: http://")
        yield process
    finally:
        if process.poll() is None:
            kill(process, signal.SIGTERM)


def deployment(flow: Flow) -> Any:
    return flow.api("deployments/filter", {"deployments": {"name": {"any_": ["quick"]}}})[0]


def start_run(flow: Flow, *overrides: str) -> str:
    """As the UI's Custom run does; its id."""
    parameters = {"overrides": [SEED, *overrides], "python": sys.executable, "package": PACKAGE}
    wanted = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    return str(flow.api(f"deployments/{deployment(flow)['id']}/create_flow_run", wanted)["id"])


def test_the_deployment_has_the_schedule_and_the_flows_parameters(flow: Flow, server: Any) -> None:
    found = deployment(flow)
    assert [(row["schedule"]["cron"], row["active"]) for row in found["schedules"]] == [(CRON, True)]
    assert not found["paused"]
    assert found["parameters"] == {"recipe": RECIPE, "overrides": [SEED]}
    assert {"recipe", "overrides", "strict"} <= found["parameter_openapi_schema"]["properties"].keys()


def test_retry_in_prefect_executes_only_what_is_missing(flow: Flow, server: Any) -> None:
    flow.order("sft", "bad input")
    identity = start_run(flow)
    wait_for(lambda: flow.flow_run(identity)["state_name"] == "BadInput", "the failure")
    failed = flow.record()
    states = {name: str(node.state) for name, node in failed.nodes.items()}
    assert states == {"data": "done", "base": "done", "other": "done", "sft": "failed"}
    (flow.orders / "sft").unlink()

    assert flow.retry(failed) == "ACCEPT"
    wait_for(lambda: flow.flow_state(failed) == "Completed", "the end of the retried run")
    retried = flow.record()
    assert retried.run_id != failed.run_id
    assert retried.prefect_flow_run_id == identity
    assert retried.started_by == "deployment quick, on request"
    assert [name for name, node in retried.nodes.items() if not node.cached] == ["sft"]
    shown = {name: task["state_name"] for name, task in flow.tasks(retried).items()}
    cached = dict.fromkeys(("data", "base", "other"), "Cached")
    assert shown == {**cached, "sft": "Completed", "report": "Completed"}


def test_sigterm_ends_the_server_with_its_run_and_pauses_the_schedule(
    flow: Flow, server: "subprocess.Popen[str]"
) -> None:
    flow.order("sft", "wait")
    identity = start_run(flow, "nodes.sft.recipe.seed=9")
    wait_for(lambda: any("time.sleep(600)" in line for line in flow.processes()), "the stage")
    output = kill(server, signal.SIGTERM)
    (flow.orders / "sft").unlink()
    assert server.returncode == 0, output
    assert "Traceback" not in output
    assert flow.processes() == []
    assert flow.record().state == "cancelled"
    assert flow.flow_run(identity)["state_name"] == "Cancelled"
    assert deployment(flow)["paused"]


@pytest.mark.parametrize(
    ("arguments", "url", "said"),
    [
        (("nothing.toml",), None, "nothing.toml: no such file"),
        ((RECIPE, "--cron", "nightly"), None, "--cron nightly: not a schedule"),
        ((RECIPE,), "http://127.0.0.1:9/api", "http://127.0.0.1:9/api/: no Prefect server answers"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    flow: Flow, arguments: tuple[str, ...], url: str | None, said: str
) -> None:
    environment = flow.environment | ({"PREFECT_API_URL": url} if url else {})
    process = Flow(environment, flow.orders).python("flows.serve", *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert output.startswith(f"serve: {said}") and output.count("\n") == 1, output
