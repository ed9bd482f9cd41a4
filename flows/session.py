"""One run of a pipeline: the values its tasks share, and the way to stop them all."""

import hashlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from flows.launcher import Execution, Launcher
from flows.ledger import Ledger, now
from flows.slots import CoreSlots, Stopped
from k15.recipes import Pipeline
from k15.store.artifact import Store
from k15.store.job import Context, Job
from k15.store.manifest import InputRef, Manifest
from k15.store.plan import input_files, load_pipeline, resolve_job
from k15.store.runs import NodeRecord, RunRecord


@dataclass(frozen=True)
class Request:
    """What a run was asked to do."""

    recipe: str
    overrides: tuple[str, ...]
    strict: bool
    started_by: str = ""


@dataclass
class Session:
    """Shared by the tasks of one run, from several threads."""

    root: Path
    store: Store
    pipeline: Pipeline
    files: Mapping[str, InputRef]
    context: Context
    strict: bool
    launcher: Launcher
    slots: CoreSlots
    ledger: Ledger
    manifests: dict[str, Manifest] = field(default_factory=dict)
    bad_inputs: set[str] = field(default_factory=set)  # nodes that failed in a way that running again repeats
    stopping: str = ""  # why, once the run is being stopped
    began: float = field(default_factory=time.monotonic)
    _running: set[Execution] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def name_parent(self, mlflow_run_id: str) -> None:
        """The MLflow run under which the stages nest; "" for none."""
        self.context = self.context.model_copy(update={"mlflow_parent_run_id": mlflow_run_id})
        self.ledger.note(mlflow_parent_run_id=mlflow_run_id)

    def job(self, name: str, prefect_task_run_id: str) -> Job:
        """The job of a node whose producers are done."""
        context = self.context.model_copy(update={"prefect_task_run_id": prefect_task_run_id})
        strict_root = self.root if self.strict else None
        manifests = dict(self.manifests)
        return resolve_job(
            self.store, self.pipeline, name, manifests, self.files, context=context, strict_root=strict_root
        )

    def launch(self, job: Job) -> Execution:
        """Start a job's stage, unless the run is being stopped (Stopped)."""
        with self._lock:
            if self.stopping:
                raise Stopped
            execution = self.launcher.start(job.kind, self.store.put_job(job), job.resources)
            self._running.add(execution)
            return execution

    def ended(self, execution: Execution) -> None:
        """Forget a stage that has ended."""
        with self._lock:
            self._running.discard(execution)

    def stop(self, reason: str) -> None:
        """End every running stage and start no other. Returns at once; the tasks see their stages end."""
        with self._lock:
            self.stopping = self.stopping or reason
            running = list(self._running)
        self.slots.stop()
        for execution in running:
            threading.Thread(target=execution.cancel, daemon=True).start()


def open_session(
    request: Request, root: Path, store: Store, launcher: Launcher, context: Context, prefect_url: str
) -> Session:
    """Check the recipe, bring the user's files into the store, open the run's record."""
    pipeline = load_pipeline(root / request.recipe, request.overrides, root)
    store.objects.check(writes=True)
    files = input_files(store, pipeline, root, ingest=True)
    record = RunRecord(
        run_id=context.run_id,
        pipeline=pipeline.name,
        recipe=request.recipe,
        overrides=request.overrides,
        strict=request.strict,
        final=pipeline.final,
        nodes={name: NodeRecord(kind=node.kind) for name, node in pipeline.nodes.items()},
        started=now(),
        commit=context.commit,
        dirty=context.dirty,
        host=socket.gethostname(),
        started_by=request.started_by,
        prefect_flow_run_id=context.prefect_flow_run_id,
        prefect_url=prefect_url,
        mlflow_uri=context.mlflow_uri,
        mlflow_experiment=context.mlflow_experiment,
    )
    return Session(
        root=root,
        store=store,
        pipeline=pipeline,
        files=files,
        context=context,
        strict=request.strict,
        launcher=launcher,
        slots=CoreSlots(len(os.sched_getaffinity(0))),
        ledger=Ledger(store, record),
    )


def new_run_id() -> str:
    """A name for a run that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:6]}"


def describe_checkout(
    root: Path, launcher: Launcher, environment: Mapping[str, str], run_id: str, flow_run_id: str
) -> Context:
    """Who runs what: the run, the commit, the locks. Recorded beside results, never part of a key."""
    locks = sorted((root / "containers" / "locks").glob("*.txt"))
    digest = hashlib.sha256(b"".join(hashlib.sha256(lock.read_bytes()).digest() for lock in locks))
    return Context(
        run_id=run_id,
        prefect_flow_run_id=flow_run_id,
        mlflow_uri=environment.get("MLFLOW_TRACKING_URI", ""),
        commit=_git(root, "rev-parse", "HEAD"),
        dirty=bool(_git(root, "status", "--porcelain")),
        image_digest=launcher.image_digest,
        launcher=launcher.name,
        lock_digest=f"sha256:{digest.hexdigest()}" if locks else "",
    )


def _git(root: Path, *arguments: str) -> str:
    """What git says, "" outside a checkout."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
