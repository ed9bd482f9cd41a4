"""The record of one pipeline run: what each node did, and where to look for more. `runs/<run_id>.json`."""

from enum import StrEnum

from k15.config import Config
from k15.store.artifact import Store


class RunState(StrEnum):
    """How a run, or one of its nodes, stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOT_RUN = "not run"  # nodes only: something it reads from failed


class NodeRecord(Config):
    """One node of a run. `seconds` is the wall time this run spent on it, waiting for cores excluded."""

    kind: str
    key: str = ""
    state: RunState = RunState.WAITING
    cached: bool = False  # found done: an earlier run had made it
    seconds: float = 0.0
    attempts: int = 0
    started: str = ""
    ended: str = ""
    prefect_task_run_id: str = ""
    message: str = ""


class RunRecord(Config):
    """One run of a pipeline. Times are ISO 8601 in UTC; addresses are empty where a service was away."""

    schema_version: int = 1
    run_id: str
    pipeline: str
    recipe: str
    overrides: tuple[str, ...] = ()
    strict: bool = False
    state: RunState = RunState.RUNNING
    final: str
    nodes: dict[str, NodeRecord]
    started: str
    ended: str = ""
    seconds: float = 0.0
    commit: str = ""
    dirty: bool = False
    host: str = ""
    started_by: str = ""  # a person's command, or a deployment and what made it start
    prefect_flow_run_id: str = ""
    prefect_url: str = ""
    mlflow_uri: str = ""
    mlflow_experiment: str = "k15"
    mlflow_parent_run_id: str = ""

    @property
    def done(self) -> bool:
        """Whether every node is done."""
        return self.state is RunState.DONE

    @property
    def final_key(self) -> str:
        """The stage key of the final model, "" where the run did not get that far."""
        node = self.nodes[self.final]
        return node.key if node.state is RunState.DONE else ""


def write_run(store: Store, record: RunRecord) -> None:
    """Put the record, replacing an earlier state of the same run."""
    store.objects.put(_path(record.run_id), record.model_dump_json(indent=1).encode())


def find_run(store: Store, run_id: str) -> RunRecord | None:
    """A run's record, None where there is none."""
    try:
        return RunRecord.model_validate_json(store.objects.get(_path(run_id)))
    except FileNotFoundError:
        return None


def read_run(store: Store, run_id: str) -> RunRecord:
    """A run's record; ValueError where there is none."""
    record = find_run(store, run_id)
    if record is None:
        uri = store.objects.uri(_path(run_id))
        raise ValueError(f"{uri}: no such run; `k15 ls --runs` shows those there are")
    return record


def run_records(store: Store) -> list[RunRecord]:
    """Every recorded run, the oldest first."""
    found = store.objects.get_many(_paths(store))
    records = [RunRecord.model_validate_json(data) for data in found.values()]
    return sorted(records, key=lambda record: record.started)


def latest_run(store: Store) -> RunRecord:
    """The run that started last; ValueError where there is none."""
    paths = _paths(store)
    if not paths:
        raise ValueError(f"{store.objects.uri('runs/')}: no run yet; start one with `k15 run RECIPE`")
    return RunRecord.model_validate_json(store.objects.get(max(paths)))  # run ids begin with their time


def _path(run_id: str) -> str:
    return f"runs/{run_id}.json"


def _paths(store: Store) -> list[str]:
    listed = [info.path for info in store.objects.list("runs/")]
    return [path for path in listed if path.count("/") == 1 and path.endswith(".json")]
