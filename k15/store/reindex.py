"""MLflow rebuilt from the store alone: stages from manifests, parents and champions from run records."""

import json
from collections.abc import Callable
from typing import Any

from k15.config import Config
from k15.store import facts
from k15.store.artifact import Store
from k15.store.graph import graph_of, mermaid, upstream
from k15.store.manifest import Manifest
from k15.store.recording import attach, ensure_parent, ensure_run, find_run, name_final, register_version
from k15.store.runs import RunRecord, run_records
from k15.store.tracking import TrackingServer, now_ms

METRICS = "metrics.jsonl"
ATTACHED = ("report.html", "report.json")


class Reindexed(Config):
    """What a rebuild found in the store, and how many stages MLflow lacked."""

    stages: int
    stages_written: int
    runs: int
    models: tuple[str, ...]


def reindex(
    store: Store, server: TrackingServer, experiment_name: str, progress: Callable[[int, int], None]
) -> Reindexed:
    """Fill `server` with every finished stage and pipeline run of `store`. Again, it writes nothing new."""
    experiment = server.experiment(experiment_name)
    manifests = {manifest.key: manifest for manifest in store.manifests()}
    records = run_records(store)
    parents = {record.run_id: _parent(server, experiment, record) for record in records}
    written = 0
    for number, manifest in enumerate(upstream(manifests, manifests).values()):
        progress(number, len(manifests))
        if not find_run(server, experiment, manifest):
            parent = parents.get(manifest.provenance.run_id, "")
            root, rows = store.objects.settings.root, metric_history(store, manifest)
            written += ensure_run(server, experiment, manifest, root, parent=parent, metrics=rows)
    models = []
    for record in records:
        final = manifests.get(record.final_key)
        if record.done and final is not None:
            name = facts.model_name(record.pipeline)
            register_version(server, experiment, name, final, store.objects.settings.root)
            name_final(server, experiment, parents[record.run_id], final, store.objects.settings.root)
            models.append(name)
        _finish(store, server, parents[record.run_id], record, manifests)
    names = tuple(sorted(set(models)))
    return Reindexed(stages=len(manifests), stages_written=written, runs=len(records), models=names)


def metric_history(store: Store, manifest: Manifest) -> list[dict[str, Any]]:
    """The metrics a stage logged, from its artifact, spread evenly over the time it took."""
    if not any(entry.path == METRICS for entry in manifest.files):
        return []
    lines = store.open(manifest.ref()).read_bytes(METRICS).decode().splitlines()
    begin, end = facts.epoch_ms(manifest.provenance.started), facts.epoch_ms(manifest.provenance.ended)
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        values = json.loads(line)
        at = (begin or now_ms()) + max(0, end - begin) * (number + 1) // len(lines)
        rows += facts.metric_rows(int(values.pop("step")), values, at)
    return rows


def _parent(server: TrackingServer, experiment: str, record: RunRecord) -> str:
    tags = facts.run_tags(record)
    return ensure_parent(
        server, experiment, record.run_id, record.pipeline, tags, facts.epoch_ms(record.started)
    )


def _finish(
    store: Store, server: TrackingServer, parent: str, record: RunRecord, manifests: dict[str, Manifest]
) -> None:
    if record.state not in facts.ENDS or server.run(parent)["info"]["status"] != "RUNNING":
        return
    keys = [node.key for node in record.nodes.values() if node.key]
    files = {"lineage.mmd": mermaid(graph_of(upstream(manifests, keys))).encode()}
    for name in ATTACHED:
        if store.objects.exists(f"runs/{record.run_id}/{name}"):
            files[name] = store.objects.get(f"runs/{record.run_id}/{name}")
    attach(server, parent, files)
    server.end_run(parent, facts.ENDS[record.state], facts.epoch_ms(record.ended) or now_ms())
