"""The live mirror of a running stage in MLflow: never in its way, never its failure.

The store decides what is done; MLflow shows it. All calls are made by one background thread. While the
server is away, metrics wait (the newest MAX_PENDING of them) and one warning is logged; what it refuses, or
is lost in the end, `k15 lineage --reindex` writes again from the manifests.
"""

import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from k15.store import facts
from k15.store.graph import upstream
from k15.store.job import Job
from k15.store.manifest import Manifest
from k15.store.recording import attach, ensure_parent, ensure_run, name_final, record_stage, register_version
from k15.store.runs import RunRecord
from k15.store.tracking import TrackingError, TrackingServer, now_ms

log = logging.getLogger(__name__)

BATCH_S = 2.0
FINISH_S = 20.0
MAX_PENDING = 20_000

Status = Literal["FINISHED", "FAILED", "KILLED"]
Json = dict[str, Any]


@dataclass(frozen=True)
class _End:
    manifest: Manifest | None
    status: Status


class RunMirror:
    """One stage's run in MLflow, nested under the pipeline's; without a `mlflow_uri` in the job, nothing."""

    def __init__(self, job: Job, key: str, root: str) -> None:
        self.run_id = ""  # known soon after the start, when the server answers
        self._job, self._key, self._root = job, key, root
        self._started_ms = now_ms()
        self._artifact_uri = ""
        self._experiment = ""
        self._warned = False
        self._queue: queue.Queue[list[Json] | _End] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)

    @classmethod
    def open(cls, job: Job, key: str, *, root: str = "") -> Self:
        """Start the run of `job`; `root` is the store's address (s3://bucket/prefix). Returns at once."""
        mirror = cls(job, key, root)
        if job.context.mlflow_uri:
            mirror._queue.put([])
            mirror._thread.start()
        return mirror

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queue metrics; returns at once."""
        if self._thread.ident is not None:
            self._queue.put(facts.metric_rows(step, values, now_ms()))

    def finish(self, manifest: Manifest | None, status: Status, *, deadline_s: float = FINISH_S) -> None:
        """End the run, with its inputs and outputs where there is a manifest. Waits at most `deadline_s`."""
        if self._thread.ident is None:
            return
        self._queue.put(_End(manifest, status))
        self._thread.join(deadline_s)
        if self._thread.is_alive():
            uri = self._job.context.mlflow_uri
            self._warn(TrackingError(f"MLflow at {uri} did not answer in {deadline_s:.0f} s"))

    def _work(self) -> None:
        pending: list[Json] = []
        end: _End | None = None
        with TrackingServer(self._job.context.mlflow_uri) as server:
            while end is None:
                rows, end = self._collect()
                pending = (pending + rows)[-MAX_PENDING:]
                try:
                    self._deliver(server, pending, end)
                    pending = []
                except TrackingError as error:
                    pending = [] if error.refused else pending  # or nothing after it would ever arrive
                    self._warn(error)

    def _collect(self) -> tuple[list[Json], _End | None]:
        """Wait for something to send, then gather more for a moment."""
        rows: list[Json] = []
        item = self._queue.get()
        until = time.monotonic() + (BATCH_S if item else 0.0)
        while not isinstance(item, _End):
            rows += item
            try:
                item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return rows, None
        return rows, item

    def _deliver(self, server: TrackingServer, rows: list[Json], end: _End | None) -> None:
        if not self.run_id:
            self._begin(server)
        if rows:
            server.log(self.run_id, rows, {}, {})
        if end is None:
            return
        if end.manifest is not None:
            record_stage(server, self._experiment, self.run_id, self._artifact_uri, end.manifest, self._root)
        server.end_run(self.run_id, end.status, now_ms())

    def _begin(self, server: TrackingServer) -> None:
        job, context = self._job, self._job.context
        self._experiment = server.experiment(context.mlflow_experiment)
        for stale in server.search(
            self._experiment, f"tags.`k15.key` = '{self._key}' and attributes.status = 'RUNNING'"
        ):
            server.end_run(stale["info"]["run_id"], "KILLED", now_ms())
        uri = f"{self._root}/stages/{self._key}"
        tags = facts.stage_tags(job.node, job.kind, self._key, context) | {
            "mlflow.parentRunId": context.mlflow_parent_run_id,
            "mlflow.note.content": facts.note(job.node, job.kind, uri),
        }
        info = server.create_run(self._experiment, job.node, tags, self._started_ms)
        server.log(info["run_id"], [], facts.flatten(job.recipe), {})
        self.run_id, self._artifact_uri = info["run_id"], info["artifact_uri"]

    def _warn(self, error: TrackingError) -> None:
        if not self._warned:
            self._warned = True
            warn(error)


def open_parent(record: RunRecord) -> str:
    """The MLflow run of a pipeline run, under which its stages nest: its id, or "" while MLflow is away."""
    if not record.mlflow_uri:
        return ""
    try:
        with TrackingServer(record.mlflow_uri) as server:
            experiment = server.experiment(record.mlflow_experiment)
            return ensure_parent(server, experiment, record.run_id, record.pipeline, facts.run_tags(record))
    except TrackingError as error:
        warn(error)
        return ""


def close_parent(record: RunRecord, attachments: Mapping[str, bytes]) -> bool:
    """End the pipeline's run as `record` ended, files attached; False and a warning while MLflow is away."""
    if not attach_to_parent(record, attachments):
        return False
    try:
        with TrackingServer(record.mlflow_uri) as server:
            if record.state in facts.ENDS:
                server.end_run(record.mlflow_parent_run_id, facts.ENDS[record.state], now_ms())
    except TrackingError as error:
        warn(error)
        return False
    return True


def attach_to_parent(record: RunRecord, attachments: Mapping[str, bytes]) -> bool:
    """Attach files to the pipeline's run; False and a warning while MLflow is away."""
    if not record.mlflow_parent_run_id:
        return False
    try:
        with TrackingServer(record.mlflow_uri) as server:
            attach(server, record.mlflow_parent_run_id, attachments)
    except TrackingError as error:
        warn(error)
        return False
    return True


def register(record: RunRecord, manifests: Mapping[str, Manifest], root: str) -> str:
    """Register the final model of a run with alias `champion`; the version, or "" while MLflow is away.

    `manifests` are those of the store, by key; what the model was made from and MLflow lacks is written too.
    """
    if not record.mlflow_uri:
        return ""
    final = manifests[record.final_key]
    try:
        with TrackingServer(record.mlflow_uri) as server:
            experiment = server.experiment(record.mlflow_experiment)
            for manifest in upstream(manifests, [final.key]).values():
                ensure_run(server, experiment, manifest, root, parent=record.mlflow_parent_run_id)
            version = register_version(server, experiment, facts.model_name(record.pipeline), final, root)
            if record.mlflow_parent_run_id:
                name_final(server, experiment, record.mlflow_parent_run_id, final, root)
            return version
    except TrackingError as error:
        warn(error)
        return ""


def warn(error: TrackingError) -> None:
    """Say once, in one line, that MLflow is not there and how to make up for it."""
    log.warning("mlflow=unavailable reason=%r remedy=%r", str(error), "later: k15 lineage --reindex")
