"""The sandbox from a caller's side: start a service, send it jobs."""

import time
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec

from k15.engines.sandbox.settings import SandboxSettings
from k15.engines.service.process import Service
from k15.programs import Job, JobResult
from k15.records import Status

GRACE_S = 10.0  # over a job's deadline, which the service keeps itself
CONNECTIONS = 64


class Sandbox:
    """ports.Sandbox over HTTP; any number of threads may use one."""

    def __init__(self, port: int, token: str, *, isolation: str = "") -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._isolation = isolation
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=headers, limits=limits, trust_env=False
        )
        self._decoder = msgspec.json.Decoder(JobResult)

    def judge(self, job: Job) -> JobResult:
        """The verdict; unjudged where the service is down, full until the deadline, or does not answer.

        ValueError where the job itself cannot be judged (it names the field). PermissionError: wrong token.
        """
        end_s = time.monotonic() + job.deadline_s
        body = msgspec.json.encode(job)
        while True:
            try:
                timeout_s = max(0.0, end_s - time.monotonic()) + GRACE_S
                answer = self._http.post("/jobs", content=body, timeout=timeout_s)
            except httpx.TimeoutException:
                return self._unjudged("the sandbox did not answer in time")
            except httpx.TransportError as error:
                return self._unjudged(f"the sandbox is down: {type(error).__name__}")
            if answer.status_code != 429:
                return self._result(answer)
            pause_s = float(answer.headers.get("Retry-After", 1.0))
            if time.monotonic() + pause_s > end_s:
                return self._unjudged("the sandbox was full until the deadline")
            time.sleep(pause_s)

    def health(self) -> dict[str, Any]:
        """What the service says of itself; httpx.TransportError where it is down."""
        return dict(self._http.get("/health").json())

    def metrics(self) -> str:
        """The Prometheus exposition."""
        return self._http.get("/metrics").raise_for_status().text

    def close(self) -> None:
        """Give the connections up."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _result(self, answer: httpx.Response) -> JobResult:
        if answer.status_code == 200:
            return self._decoder.decode(answer.content)
        message = answer.json().get("message", "") if "json" in answer.headers.get("content-type", "") else ""
        if answer.status_code in (413, 422):
            raise ValueError(message)
        if answer.status_code == 401:
            raise PermissionError(message)
        return self._unjudged(f"the sandbox answered {answer.status_code} {message}")

    def _unjudged(self, reason: str) -> JobResult:
        return JobResult(Status.UNJUDGED, reason, (), self._isolation)


def launch_sandbox(settings: SandboxSettings, *, log_path: Path) -> Service:
    """Start a sandbox service without waiting for it."""
    return Service.launch("stages.sandbox", settings.resolved(), log_path=log_path)
