"""Where a report goes: a folder here, the run's folder in the store, the run's page in MLflow."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k15.report.facts import RunFacts
from k15.store.artifact import Store
from k15.store.graph import graph_of, mermaid
from k15.store.mirror import attach_to_parent


def publish(
    store: Store, facts: RunFacts, values: Mapping[str, Any], html: str, folder: Path, *, upload: bool
) -> dict[str, str]:
    """Write report.html and report.json; where each lies, by name. MLflow being away is a warning."""
    files = {
        "report.html": html.encode(),
        "report.json": json.dumps(values, indent=1, ensure_ascii=False).encode(),
        "lineage.mmd": mermaid(graph_of(facts.lineage)).encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if name.startswith("report."):
            (folder / name).write_bytes(data)
    if upload:
        for name, data in files.items():
            store.objects.put(f"runs/{facts.record.run_id}/{name}", data)
        attach_to_parent(facts.record, files)
    return {name: str(folder / name) for name in files}
