"""Run the flow over quick stages as a process of its own, and ask Prefect and the store what happened."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from k15.store.artifact import Store
from k15.store.runs import RunRecord, run_records

ROOT = Path(__file__).parents[2]
RECIPE = "tests/flows/pipeline.toml"
PACKAGE = "tests.flows.stages"
LOCKED_S = 60.0


@dataclass
class Flow:
    """The flow against one prefix of the session's store."""

    environment: dict[str, str]
    orders: Path

    @property
    def store(self) -> Store:
        """The store the flow uses."""
        return Store.from_environment(self.environment)

    def order(self, node: str, text: str) -> None:
        """What the node's next stage process is to do."""
        (self.orders / node).write_text(text)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a run."""
        stages = ("--python", sys.executable, "--package", PACKAGE)
        return self.python("flows.pipeline", RECIPE, *stages, *arguments)

    def python(self, module: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start `python -m MODULE` in the checkout."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run to the end: exit code and all that was printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output

    def record(self) -> RunRecord:
        """The newest run of this prefix."""
        return run_records(self.store)[-1]

    def api(self, path: str, body: object) -> Any:
        """An answer of the Prefect server; asked again while its database is locked, as its clients do."""
        url = f"{self.environment['PREFECT_API_URL']}/{path}"
        request = Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
        end_s = time.monotonic() + LOCKED_S
        while True:
            try:
                with urlopen(request, timeout=30) as answer:
                    return json.loads(answer.read() or b"null")
            except HTTPError as error:
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > end_s:
                    raise
            time.sleep(1)

    def flow_run(self, identity: str) -> Any:
        """What Prefect has of a flow run."""
        return self.api("flow_runs/filter", {"flow_runs": {"id": {"any_": [identity]}}})[0]

    def flow_state(self, record: RunRecord) -> str:
        """The name of the state Prefect has for a run."""
        return str(self.flow_run(record.prefect_flow_run_id)["state_name"])

    def tasks(self, record: RunRecord) -> dict[str, dict[str, Any]]:
        """The task runs of a run by name; of a retried one, those of its last time."""
        wanted = {"flow_runs": {"id": {"any_": [record.prefect_flow_run_id]}}}
        rows = sorted(self.api("task_runs/filter", wanted), key=lambda row: row["flow_run_run_count"])
        return {row["name"].partition("-")[0]: row for row in rows}

    def retry(self, record: RunRecord) -> str:
        """Ask Prefect, as its UI's Retry does, to run a flow run again; what became of the request."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
        return str(self.api(f"flow_runs/{record.prefect_flow_run_id}/set_state", {"state": state})["status"])

    def processes(self) -> list[str]:
        """Command lines of live processes that work for this prefix, this one's children included."""
        marker = f"K15_S3_PREFIX={self.environment['K15_S3_PREFIX']}".encode()
        return [line for line in map(_command_line, _pids_with(marker)) if line]


def _pids_with(marker: bytes) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if marker in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(entry.name)
            except OSError:
                continue  # it ended, or is not ours
    return found


def _command_line(pid: str) -> str:
    try:
        return (Path("/proc") / pid / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def kill(process: "subprocess.Popen[str]", number: signal.Signals) -> str:
    """Signal a run and wait for its end; all that it printed."""
    process.send_signal(number)
    return process.communicate(timeout=90)[0]


def wait_for(condition: Callable[[], bool], what: str, *, timeout_s: float = 60.0) -> float:
    """Seconds until the condition held; AssertionError where it did not."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"{what} did not come within {timeout_s} s"
        time.sleep(0.2)
    return time.monotonic() - began
