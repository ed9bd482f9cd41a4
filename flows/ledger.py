"""The run record while it grows: what every node did so far, written to the store at each change."""

import threading
from datetime import UTC, datetime

from k15.store.artifact import Store
from k15.store.runs import NodeRecord, RunRecord, RunState, write_run


def now() -> str:
    """This moment, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat()


class Ledger:
    """Thread-safe: tasks report here, and the store holds the latest state of the record."""

    def __init__(self, store: Store, record: RunRecord) -> None:
        self._store = store
        self._record = record
        self._lock = threading.Lock()

    @property
    def record(self) -> RunRecord:
        """The record as it stands."""
        with self._lock:
            return self._record

    def note(self, **changes: object) -> None:
        """Change fields of the run without writing them yet."""
        with self._lock:
            self._record = self._record.model_copy(update=changes)

    def note_node(self, name: str, **changes: object) -> NodeRecord:
        """Change fields of one node without writing them yet; the node as it then stands."""
        with self._lock:
            node = self._record.nodes[name].model_copy(update=changes)
            nodes = {**self._record.nodes, name: node}
            self._record = self._record.model_copy(update={"nodes": nodes})
            return node

    def write(self) -> None:
        """Put the record into the store."""
        with self._lock:
            write_run(self._store, self._record)

    def close(self, state: RunState, seconds: float) -> None:
        """The run's end: nodes that never started are marked so, and the record is written."""
        for name, node in self.record.nodes.items():
            if node.state in (RunState.WAITING, RunState.RUNNING):
                ended = RunState.CANCELLED if state is RunState.CANCELLED else RunState.NOT_RUN
                self.note_node(name, state=ended)
        self.note(state=state, ended=now(), seconds=seconds)
        self.write()
