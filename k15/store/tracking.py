"""A thin, typed client of the MLflow REST API: what the mirror needs, and no more.

The official client takes 4 to 6 CPU-seconds to import, in every stage process; HTTP takes none of that.
"""

import logging
import os
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from k15.store.settings import secret

API = "/api/2.0/mlflow/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
PROXIED = "mlflow-artifacts:/"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
TIMEOUT_S = 10.0
MAX_METRICS = 1000  # per log-batch, as the server allows
MAX_PARAMS = 100
MAX_VALUE = 5900  # characters of a parameter's or a tag's value

Json = dict[str, Any]


class TrackingError(RuntimeError):
    """The tracking server is away or refuses a call. `code` is MLflow's error code, where it gave one.

    `refused`: it would refuse the same call again.
    """

    def __init__(self, message: str, code: str = "", *, refused: bool = False) -> None:
        super().__init__(message)
        self.code, self.refused = code, refused


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow counts them."""
    return int(time.time() * 1000)


def pairs(values: Mapping[str, str]) -> list[Json]:
    """A mapping as MLflow's list of key and value."""
    return [{"key": key, "value": value[:MAX_VALUE]} for key, value in values.items() if value]


def mapping(rows: Iterable[Json]) -> dict[str, str]:
    """MLflow's list of key and value as a mapping."""
    return {row["key"]: row.get("value", "") for row in rows}


class TrackingServer:
    """One MLflow server. Every call raises TrackingError, never anything else, when it does not succeed.

    Credentials come from MLFLOW_TRACKING_USERNAME, _PASSWORD and _TOKEN, as for MLflow's own client, or
    from the files that these names with _FILE behind them name.
    """

    def __init__(self, uri: str, environ: Mapping[str, str] | None = None, *, timeout_s: float = TIMEOUT_S):
        environ = os.environ if environ is None else environ
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request at INFO
        self.uri = uri.rstrip("/")
        names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
        user, password, token = (secret(environ, name) for name in names)
        self._http = httpx.Client(
            base_url=self.uri,
            timeout=timeout_s,
            trust_env=urlsplit(self.uri).hostname not in LOOPBACK,
            auth=(user, password) if user else None,
            headers={"Authorization": f"Bearer {token}"} if token and not user else {},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def call(self, method: str, path: str, values: Json) -> Json:
        """One API call; `values` go into the query of a GET and the body of anything else."""
        given: Json = {"params": values} if method == "GET" else {"json": values}
        reply = self._send(method, API + path, **given)
        result: Json = reply.json() if reply.content else {}
        return result

    def experiment(self, name: str) -> str:
        """The id of an experiment, made if it is not there."""
        try:
            found = self.call("GET", "experiments/get-by-name", {"experiment_name": name})
        except TrackingError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            return str(found["experiment"]["experiment_id"])
        try:
            return str(self.call("POST", "experiments/create", {"name": name})["experiment_id"])
        except TrackingError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self.experiment(name)  # another process made it in between

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str], started_ms: int) -> Json:
        """A new run, RUNNING: its `info`."""
        body = {"experiment_id": experiment, "run_name": name, "start_time": started_ms, "tags": pairs(tags)}
        info: Json = self.call("POST", "runs/create", body)["run"]["info"]
        return info

    def end_run(self, run_id: str, status: str, ended_ms: int) -> None:
        """Give a run its last status: FINISHED, FAILED or KILLED."""
        self.call("POST", "runs/update", {"run_id": run_id, "status": status, "end_time": ended_ms})

    def run(self, run_id: str) -> Json:
        """Everything of one run: info, data, inputs, outputs."""
        found: Json = self.call("GET", "runs/get", {"run_id": run_id})["run"]
        return found

    def search(self, experiment: str, filter_text: str, limit: int = 100) -> list[Json]:
        """Runs of an experiment that match, newest first."""
        body = {"experiment_ids": [experiment], "filter": filter_text, "max_results": limit}
        return list(self.call("POST", "runs/search", body).get("runs", []))

    def log(
        self, run_id: str, metrics: list[Json], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        """Metrics, parameters and tags of a run, in as many calls as the server's limits need."""
        rows = pairs(params)
        while metrics or rows or tags:
            body = {"run_id": run_id, "metrics": metrics[:MAX_METRICS], "params": rows[:MAX_PARAMS]}
            self.call("POST", "runs/log-batch", body | {"tags": pairs(tags)})
            metrics, rows, tags = metrics[MAX_METRICS:], rows[MAX_PARAMS:], {}

    def upload(self, artifact_uri: str, path: str, data: bytes) -> bool:
        """Attach a file to a run. False where the server passes no artifacts on (--no-serve-artifacts)."""
        if not artifact_uri.startswith(PROXIED):
            return False
        root = urlsplit(artifact_uri).path.strip("/")
        self._send("PUT", f"{ARTIFACTS}{root}/{path}", content=data)
        return True

    def create_model(self, experiment: str, run_id: str, name: str, tags: Mapping[str, str]) -> str:
        """A logged model, READY, as output of a run: its id."""
        body = {
            "experiment_id": experiment,
            "name": name,
            "model_type": "checkpoint",
            "source_run_id": run_id,
            "tags": pairs(tags),
        }
        model: str = self.call("POST", "logged-models", body)["model"]["info"]["model_id"]
        self.call("POST", "runs/outputs", {"run_id": run_id, "models": [{"model_id": model, "step": 0}]})
        ready = {"model_id": model, "status": "LOGGED_MODEL_READY"}
        self.call("PATCH", f"logged-models/{model}", ready)
        return model

    def find_model(self, experiment: str, digest: str) -> Json | None:
        """The logged model whose tag k15.digest is `digest`: its `info`."""
        body = {"experiment_ids": [experiment], "filter": f"tags.`k15.digest` = '{digest}'", "max_results": 1}
        rows = self.call("POST", "logged-models/search", body).get("models", [])
        return rows[0]["info"] if rows else None

    def _send(self, method: str, path: str, **given: Any) -> httpx.Response:
        try:
            reply = self._http.request(method, path, **given)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise TrackingError(f"MLflow at {self.uri} cannot be reached: {reason}") from None
        if reply.is_success:
            return reply
        code, message = _refusal(reply)
        text = f"MLflow at {self.uri} refused {path}: {message} ({reply.status_code})"
        raise TrackingError(text, code, refused=reply.status_code in (400, 413))


def _refusal(reply: httpx.Response) -> tuple[str, str]:
    if reply.headers.get("content-type", "").startswith("application/json"):
        body = reply.json()
        return str(body.get("error_code", "")), str(body.get("message", ""))
    return "", reply.text[:200]
