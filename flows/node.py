"""One node of a pipeline: found done, or run by the launcher while its lines stream into Prefect."""

import threading
import time
from collections import deque
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import task_run
from prefect.states import Cancelled, Completed, Failed

from flows.launcher import Execution
from flows.ledger import now
from flows.progress import Progress
from flows.session import Session
from flows.slots import Stopped
from k15.store.job import Job
from k15.store.manifest import Manifest
from k15.store.objects import StoreError, StoreUnreachable
from k15.store.runs import RunState

BAD_INPUT = 2  # a stage's exit code
LAST_LINES = 15


class BadInput(Exception):
    """Recipe, input or machine are not as they must be, or a loss is NaN: running again would not help."""


class StageFault(Exception):
    """The stage failed; running again may help."""


def may_retry(_task: Any, _task_run: Any, state: State[Any]) -> bool:
    """Prefect's question before a retry: bad input stays bad."""
    return state.name != BadInput.__name__


def run_node(session: Session, name: str) -> State[Any]:
    """Bring one node to done. A failed state carries the stage's last lines, and its name says which kind."""
    identity = str(task_run.get_id() or "")
    session.ledger.note_node(name, started=now(), prefect_task_run_id=identity)
    try:
        return _run(session, name, identity)
    except Stopped:
        session.ledger.note_node(name, state=RunState.CANCELLED, ended=now())
        return Cancelled(message=session.stopping)
    except (StageFault, StoreUnreachable) as error:
        return _failed(session, name, StageFault, str(error))
    except (BadInput, ValueError) as error:
        return _failed(session, name, BadInput, str(error))


def _run(session: Session, name: str, identity: str) -> State[Any]:
    job = session.job(name, identity)
    manifest = session.store.manifest(job.key)
    if manifest is not None:
        return _cached(session, name, manifest)
    with session.slots.hold(job.resources.cores):
        began = time.monotonic()
        attempts = session.ledger.record.nodes[name].attempts + 1
        session.ledger.note_node(name, key=job.key, state=RunState.RUNNING, attempts=attempts)
        session.ledger.write()
        _execute(session, job)
        seconds = time.monotonic() - began
    manifest = session.store.manifest(job.key)
    if manifest is None:
        raise StageFault(
            f"{name}: the stage ended well but committed nothing under {session.store.uri(job.key)}"
        )
    session.manifests[name] = manifest
    session.ledger.note_node(name, state=RunState.DONE, seconds=seconds, ended=now(), message="")
    session.ledger.write()
    get_run_logger().info("%s: done in %.1f s", name, seconds)
    return Completed(message=session.store.uri(job.key))


def _cached(session: Session, name: str, manifest: Manifest) -> State[Any]:
    session.manifests[name] = manifest
    node = session.ledger.record.nodes[name]
    session.ledger.note_node(
        name, key=manifest.key, state=RunState.DONE, cached=node.attempts == 0, ended=now(), message=""
    )
    session.ledger.write()  # from now on `k15 gc --keep` beside this run leaves it
    made = f"made {manifest.provenance.ended[:19]} by run {manifest.provenance.run_id or 'unknown'}"
    get_run_logger().info("%s: found done, %s", name, made)
    return Completed(name="Cached", message=f"{session.store.uri(manifest.key)} {made}")


def _execute(session: Session, job: Job) -> None:
    """Run the stage to its end. Every line goes to Prefect, progress lines to their artifact."""
    logger = get_run_logger()
    progress = Progress(job.node, session.context.run_id)
    tail: deque[str] = deque(maxlen=LAST_LINES)
    execution = session.launch(job)
    overdue = threading.Event()
    timer = threading.Timer(job.resources.timeout_s, _end_overdue, (execution, overdue))
    timer.daemon = True
    timer.start()
    try:
        for line in execution.lines():
            tail.append(line)
            if not progress.read(line):
                logger.info("%s", line)
        code = execution.wait()
    except BaseException:
        execution.cancel()
        raise
    finally:
        timer.cancel()
        session.ended(execution)
    if code == 0:
        return
    if session.stopping:
        raise Stopped
    reason = f"ran longer than {job.resources.timeout_s:.0f} s" if overdue.is_set() else _reason(code)
    message = f"{job.node}: {reason}; its last lines:\n" + "\n".join(tail)
    raise BadInput(message) if code == BAD_INPUT else StageFault(message)


def _end_overdue(execution: Execution, overdue: threading.Event) -> None:
    overdue.set()
    execution.cancel()


def _reason(code: int) -> str:
    return f"ended by signal {-code}" if code < 0 else f"exit code {code}"


def _failed(session: Session, name: str, kind: type[Exception], message: str) -> State[Any]:
    if kind is BadInput:
        session.bad_inputs.add(name)
    session.ledger.note_node(name, state=RunState.FAILED, ended=now(), message=message)
    try:
        session.ledger.write()
    except StoreError as error:  # the run's end writes once more, and tells
        get_run_logger().warning("%s", error)
    return Failed(name=kind.__name__, message=message)
