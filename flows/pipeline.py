"""The pipeline as a Prefect flow: `python -m flows.pipeline RECIPE [--set A.B=C …] [--strict] [--json]`.

Every node is one task; the store decides what is done, so a rerun executes only what is missing.
Exit codes: 0 done, 2 bad input, 1 a stage failed, 130 cancelled.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from flows.cancellation import stopped_by_prefect, stopped_by_signals
from flows.closing import report_run
from flows.containers import DockerLauncher
from flows.launcher import Launcher, ProcessLauncher
from flows.node import BadInput, may_retry, run_node
from flows.session import Request, Session, describe_checkout, new_run_id, open_session
from flows.starter import started_by
from flows.summary import publish, run_table
from k15.recipes import producers
from k15.store.artifact import Store
from k15.store.mirror import close_parent, open_parent
from k15.store.objects import StoreError
from k15.store.plan import load_pipeline
from k15.store.runs import RunState, find_run

RETRY_DELAY_S = 2.0
MAX_NODES = 256
RUNTIMES = ("process", "docker")
RUNNER = cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=MAX_NODES))
EXIT_CODES = {RunState.DONE: 0, RunState.CANCELLED: 130}


@task(cache_policy=NO_CACHE, persist_result=False)
def node_task(session: Any, name: str) -> State[Any]:
    """One node; the session comes quoted, so that Prefect does not look into it."""
    return run_node(session, name)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def report_task(session: Any) -> State[Any]:
    """The flow's last task."""
    return report_run(session)


@flow(
    name="k15",
    flow_run_name="{recipe}",
    task_runner=RUNNER,
    persist_result=False,
    validate_parameters=False,
)
def pipeline(
    recipe: str,
    overrides: list[str] | None = None,
    strict: bool = False,
    python: str = ".venv/engine/bin/python",
    package: str = "stages",
    run_id: str = "",
    debug: bool = False,
    runtime: str = "process",
) -> State[Any]:
    """Run a recipe's pipeline. Its state has a message for each node that failed.

    `python` and `package` say what runs a stage: `PYTHON -m PACKAGE.KIND`, from the work directory.
    `runtime` says where: process, or docker (then the image K15_IMAGE has python and stages of its own).
    `run_id` is made up where none is given. `debug` shows stack traces of bad input, here and in stages.
    """
    began = time.monotonic()
    try:
        launcher = _launcher(runtime, python, package, debug=debug)
        session = _open(Request(recipe, tuple(overrides or ()), strict, started_by()), launcher, run_id)
    except ValueError as error:
        if debug:
            traceback.print_exc()
        return Failed(name=BadInput.__name__, message=str(error))
    unwritten = ""
    try:
        with (
            stopped_by_signals(session.stop),
            stopped_by_prefect(session.context.prefect_flow_run_id, session.stop),
        ):
            session.ledger.write()
            _run_nodes(session)
            state = _judge(session)
            session.ledger.close(state, time.monotonic() - began)
            if state is RunState.DONE:
                session.ledger.close(_report(session), time.monotonic() - began)
    except StoreError as error:
        session.ledger.note(state=RunState.FAILED)
        unwritten = str(error)
    close_parent(session.ledger.record, {})
    publish(session.ledger.record, session.store)
    return Failed(name=BadInput.__name__, message=unwritten) if unwritten else _final_state(session)


def _launcher(runtime: str, python: str, package: str, *, debug: bool) -> Launcher:
    if runtime == "process":
        return ProcessLauncher(Path.cwd() / python, Path.cwd(), dict(os.environ), package, debug)
    if runtime == "docker":
        return DockerLauncher.open(dict(os.environ), package, debug=debug)
    raise ValueError(f"runtime {runtime!r}: there are {', '.join(RUNTIMES)}")


def _open(request: Request, launcher: Launcher, run_id: str) -> Session:
    root = Path.cwd()
    context = describe_checkout(root, launcher, os.environ, run_id or new_run_id(), str(flow_run.get_id()))
    url = flow_run.get_flow_run_ui_url() or ""
    session = open_session(request, root, Store.from_environment(os.environ), launcher, context, url)
    session.name_parent(open_parent(session.ledger.record))
    return session


def _run_nodes(session: Session) -> None:
    """Submit every node; each starts as soon as what it reads is done. Returns when all have ended."""
    futures: dict[str, PrefectFuture[Any]] = {}
    for name in session.pipeline.order():
        node = session.pipeline.nodes[name]
        options = node_task.with_options(
            name=name,
            task_run_name=name,
            retries=node.resources.retries,
            retry_delay_seconds=RETRY_DELAY_S,
            retry_condition_fn=may_retry,
        )
        after = [futures[producer] for producer in sorted(producers(node))]
        futures[name] = options.submit(quote(session), name, wait_for=after, return_state=False)
    for future in futures.values():
        future.wait()


def _judge(session: Session) -> RunState:
    nodes = session.ledger.record.nodes.values()
    if all(node.state is RunState.DONE for node in nodes):
        return RunState.DONE
    return RunState.CANCELLED if session.stopping else RunState.FAILED


def _report(session: Session) -> RunState:
    state = report_task(quote(session), return_state=True)
    return RunState.DONE if state.is_completed() else RunState.FAILED


def _final_state(session: Session) -> State[Any]:
    record = session.ledger.record
    if record.state is RunState.DONE:
        cached = sum(node.cached for node in record.nodes.values())
        text = f"run {record.run_id}: {len(record.nodes)} stages, {cached} of them found done"
        return Completed(message=text)
    if record.state is RunState.CANCELLED:
        return Cancelled(message=session.stopping)
    failed = {name: node for name, node in record.nodes.items() if node.state is RunState.FAILED}
    message = "\n\n".join(node.message for node in failed.values()) or "the report failed; its task says why"
    bad_input = bool(failed) and failed.keys() <= session.bad_inputs
    return Failed(name=BadInput.__name__ if bad_input else "Failed", message=message)


def main(argv: list[str] | None = None) -> int:
    """Check the input, run the flow, print its table; the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline", description="Run a pipeline as a Prefect flow."
    )
    parser.add_argument("recipe", help="a pipeline's TOML file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override a field of the recipe"
    )
    parser.add_argument("--strict", action="store_true", help="rerun stages whose code changed")
    parser.add_argument("--json", action="store_true", help="print the run's record as JSON")
    parser.add_argument(
        "--debug", action="store_true", help="show stack traces of bad input, here and in stages"
    )
    parser.add_argument(
        "--python", default=".venv/engine/bin/python", help="the interpreter that runs stages"
    )
    parser.add_argument("--runtime", choices=RUNTIMES, default="process", help="where stages run")
    parser.add_argument("--package", default="stages", help="the package that holds the stages")
    arguments = parser.parse_args(argv)
    run_id = new_run_id()
    try:
        check(arguments.recipe, arguments.set, os.environ)
        state = pipeline(
            recipe=arguments.recipe,
            overrides=arguments.set,
            strict=arguments.strict,
            python=arguments.python,
            package=arguments.package,
            run_id=run_id,
            debug=arguments.debug,
            runtime=arguments.runtime,
            return_state=True,
        )
        return finish(state, run_id, as_json=arguments.json)
    except ValueError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"k15 run: {error}", file=sys.stderr)
        return 2


def finish(state: State[Any], run_id: str, *, as_json: bool) -> int:
    """Print how the run went; the process's exit code. StoreError where its record cannot be read."""
    record = find_run(Store.from_environment(os.environ), run_id)
    if record is not None:
        print(json.dumps(record.resolved(), indent=1) if as_json else run_table(record))
    if not state.is_completed():
        print(f"k15 run: {state.message}", file=sys.stderr)
    if state.name == BadInput.__name__:
        return 2
    return EXIT_CODES.get(record.state, 1) if record is not None else 1


def check(recipe: str, overrides: list[str], environment: Mapping[str, str]) -> None:
    """ValueError where the flow could not even start."""
    if not environment.get("PREFECT_API_URL"):
        raise ValueError(
            "PREFECT_API_URL is not set: start the flow with `k15 run RECIPE`, or set it to your server"
        )
    load_pipeline(Path(recipe), overrides)
    Store.from_environment(environment).objects.check(writes=True)


if __name__ == "__main__":
    sys.exit(main())
