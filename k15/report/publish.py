"""Where a report goes: a folder here, the run's folder in the store, the run's page in MLflow."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k15.report.facts import RunFacts
from k15.store.artifact import Store
from k15.store.graph import graph_of, mermaid
from k15.store.mirror import attach_to_parent
from k15.store.runs import RunRecord


def publish(
    store: Store, facts: RunFacts, values: Mapping[str, Any], html: str, folder: Path, *, upload: bool
) -> dict[str, str]:
    """Write report.html and report.json; where each lies, by name. MLflow being away is a warning."""
    files = {
        "report.html": html.encode(),
        "report.json": json.dumps(values, indent=1, ensure_ascii=False).encode(),
        "lineage.mmd": mermaid(graph_of(facts.lineage)).encode(),
    }
    _write(folder, {name: data for name, data in files.items() if name.startswith("report.")})
    if upload:
        _upload(store, facts.record, files)
    return {name: str(folder / name) for name in files}


def publish_audit(
    store: Store, record: RunRecord | None, name: str, document: Mapping[str, Any], html: str, folder: Path
) -> list[str]:
    """Write NAME.json and NAME.html, beside the report of `record` too where there is one; their paths."""
    encoded = json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
    files = {f"{name}.json": encoded, f"{name}.html": html.encode()}
    _write(folder, files)
    if record is not None:
        _upload(store, record, files)
    return [str(folder / name) for name in files]


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _upload(store: Store, record: RunRecord, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        store.objects.put(f"runs/{record.run_id}/{name}", data)
    attach_to_parent(record, files)
