"""The one place of idempotence: load the job → done? → lease → run → commit → mirror.

    python -m stages.<kind> --job s3://bucket/jobs/<key>/<uuid>.json     (or the path of a local JSON file)

Exit codes: 0 done (or done before), 1 fault (or ended by SIGTERM: run it again to go on), 2 bad input, or a
loss that is not finite: running again would meet it again.
"""

import argparse
import contextlib
import errno
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TypeVar

from k15.recipes.stage import StageRecipe
from k15.stage.context import MetricLog, StageContext, StageStopped, StopSignal, finite
from k15.stage.watchdog import end_with_children, watch_stdin
from k15.store.artifact import Artifact, Store
from k15.store.code import code_digest
from k15.store.job import Job
from k15.store.lease import Held, Lease, acquire, is_dead, this_process
from k15.store.manifest import Manifest, Provenance
from k15.store.mirror import RunMirror
from k15.store.objects import StoreError, StoreUnreachable
from k15.store.steps import Steps

DONE, FAULT, BAD_INPUT = 0, 1, 2
LEASE_POLL_S = 1.0
STOPPED_MIRROR_S = 2.0
R = TypeVar("R", bound=StageRecipe)

log = logging.getLogger("k15.stage")


def run_stage(
    recipe_type: type[R],
    body: Callable[[StageContext, R], None],
    *,
    meet: Callable[[Mapping[str, str]], bool] | None = None,
) -> NoReturn:
    """Run `body` for the job on the command line, once per stage key, and exit with the stage's code.

    Where torchrun or Kubernetes started several ranks of a stage (RANK), they `meet`: that is true for the
    first, which runs the stage, and false for the others, once the first has ended.
    """
    parser = argparse.ArgumentParser(description=f"Run one {recipe_type.kind} stage.")
    parser.add_argument("--job", required=True, help="s3:// address or path of a resolved job")
    parser.add_argument("--debug", action="store_true", help="show stack traces of bad input, and debug logs")
    arguments = parser.parse_args()
    _configure_logging(arguments.debug)
    if meet is not None and "RANK" in os.environ and not meet(os.environ):
        sys.exit(DONE)
    stop = StopSignal()
    if os.environ.get("K15_WATCH_STDIN") == "1":
        watch_stdin(lambda: end_with_children(FAULT))
    code = _guarded(lambda: _run(recipe_type, body, arguments.job, stop), debug=arguments.debug)
    sys.stdout.flush()
    sys.exit(code)


def _run(recipe_type: type[R], body: Callable[[StageContext, R], None], uri: str, stop: StopSignal) -> None:
    store = Store.from_environment(os.environ)
    store.objects.check()
    job = _load_job(store, uri)
    if job.kind != recipe_type.kind or job.version != recipe_type.version:
        raise ValueError(
            f"{uri}: the job is for {job.kind} version {job.version}, this is {recipe_type.kind} version"
            f" {recipe_type.version}; resolve it again (`k15 plan` shows what will run)"
        )
    recipe = recipe_type.parse(job.recipe, where=f"{uri}: recipe")
    job = job.model_copy(update={"recipe": recipe.resolved()})
    if store.manifest(job.key) is not None:
        _say(job, "cached")
        return
    lease = _lease(store, job, stop)
    try:
        if lease is None or store.manifest(job.key) is not None:
            _say(job, "cached")
            return
        inputs = {role: store.open(ref) for role, ref in job.inputs.items()}
        _attempt(store, job, recipe, inputs, lease, stop, body)
    finally:
        if lease is not None:
            lease.release()


def _attempt(
    store: Store,
    job: Job,
    recipe: R,
    inputs: dict[str, Artifact],
    lease: Lease,
    stop: StopSignal,
    body: Callable[[StageContext, R], None],
) -> None:
    started = datetime.now(UTC)
    mirror = RunMirror.open(job, job.key, root=store.objects.settings.root)
    manifest: Manifest | None = None
    try:
        with _scratch() as scratch:
            out = store.begin(job.key)
            context = StageContext(job, recipe, inputs, store, out, scratch, lease, MetricLog(mirror), stop)
            body(context, recipe)
        out.write_bytes("metrics.jsonl", context.metrics.encode())
        provenance = _provenance(job, started, mirror.run_id)
        manifest = store.commit(out, job, provenance, _summary(context.summary), context.licenses)
    except StoreUnreachable as error:
        raise RuntimeError(f"the store went away while the stage ran: {error}") from error
    finally:
        if manifest is not None:
            mirror.finish(manifest, "FINISHED")
        elif stop.is_set():
            mirror.finish(None, "KILLED", deadline_s=STOPPED_MIRROR_S)
        else:
            mirror.finish(None, "FAILED")
    _sweep(Steps(store, job.key))
    _say(job, "done", seconds=(datetime.now(UTC) - started).total_seconds())


def _sweep(steps: Steps) -> None:
    """Remove the checkpoints of a stage that is done. That it is stays so where the store refuses."""
    try:
        steps.clear()
    except StoreError as error:
        log.warning("steps=left reason=%r remedy='k15 gc'", str(error))


def _guarded(work: Callable[[], None], *, debug: bool) -> int:
    """Run, and turn how it ended into the exit code, with one message."""
    try:
        work()
    except StageStopped as stopped:
        print(f"error: {stopped}", file=sys.stderr)
        return FAULT
    except (ValueError, FloatingPointError) as error:
        return _bad_input(str(error), debug)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or tempfile.gettempdir()
            return _bad_input(f"{where}: no space left; free some, or set TMPDIR to a larger disk", debug)
        return _fault()
    except Exception:  # noqa: BLE001 (the boundary of the process: reported with its trace, exit code 1)
        return _fault()
    return DONE


def _bad_input(message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    return BAD_INPUT


def _fault() -> int:
    traceback.print_exc()
    return FAULT


def _load_job(store: Store, uri: str) -> Job:
    if uri.startswith("s3://"):
        return store.job(uri)
    path = Path(uri)
    if not path.is_file():
        raise ValueError(f"{uri}: no such file; pass --job the s3:// address or the path of a resolved job")
    try:
        return Job.parse(json.loads(path.read_text()), where=uri)
    except json.JSONDecodeError as error:
        raise ValueError(f"{uri}: not valid JSON: {error}") from None


def _lease(store: Store, job: Job, stop: StopSignal) -> Lease | None:
    """The stage's lease, waited for; None where its holder finished the stage meanwhile."""
    said = ""
    while True:
        try:
            return acquire(store, job.key, on_lost=_on_lease_lost)
        except Held as held:
            if held.holder != said:
                said = held.holder
                log.info("waiting=lease reason=%r", str(held))
        if store.manifest(job.key) is not None:
            return None
        stop.wait(LEASE_POLL_S)


def _on_lease_lost() -> None:
    print("error: this stage's lease lapsed or was taken by another process", file=sys.stderr, flush=True)
    end_with_children(FAULT)


def _provenance(job: Job, started: datetime, mlflow_run_id: str) -> Provenance:
    ended = datetime.now(UTC)
    context = job.context
    return Provenance(
        commit=context.commit,
        dirty=context.dirty,
        image_digest=context.image_digest,
        lock_digest=context.lock_digest,
        code_digest=code_digest(Path.cwd(), job.kind),
        host=socket.gethostname(),
        started=started.isoformat(),
        ended=ended.isoformat(),
        seconds=(ended - started).total_seconds(),
        run_id=context.run_id,
        prefect_flow_run_id=context.prefect_flow_run_id,
        prefect_task_run_id=context.prefect_task_run_id,
        mlflow_run_id=mlflow_run_id,
        launcher=context.launcher,
    )


def _summary(summary: dict[str, float]) -> dict[str, float]:
    plain = {name: float(value) for name, value in summary.items()}
    odd = [name for name, value in finite(plain).items() if value is None]
    if odd:
        raise ArithmeticError(f"summary values {odd} are not finite; the stage was not committed")
    return plain


def _say(job: Job, status: str, **numbers: float) -> None:
    more = "".join(f" {name}={value:.3f}" for name, value in numbers.items())
    print(f"stage key={job.key} status={status}{more}", flush=True)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for this process, named after it; those that killed stages left are removed first."""
    for left in Path(tempfile.gettempdir()).glob("k15-stage+*"):
        if is_dead("/".join(left.name.split("+")[1:5])):
            shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=f"k15-stage+{this_process().replace('/', '+')}+"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _configure_logging(debug: bool) -> None:
    logging.basicConfig(
        stream=sys.stdout,
        level=logging.DEBUG if debug else logging.INFO,
        format="time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s",
    )
    for noisy in ("aiobotocore", "asyncio", "botocore", "fsspec", "httpcore", "httpx", "s3fs", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
