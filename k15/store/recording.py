"""Writing what the store records into MLflow: one finished stage, and one registered version.

Each function finds what is already there by its tags, so doing it again changes nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from k15.store import facts
from k15.store.manifest import InputRef, Manifest
from k15.store.tracking import TrackingError, TrackingServer, mapping, now_ms

CHAMPION = "champion"


def record_stage(
    server: TrackingServer, experiment: str, run_id: str, artifact_uri: str, manifest: Manifest, root: str
) -> None:
    """Write inputs, outputs, manifest and summary of a finished stage into its run; its digest tag last.

    An input model that MLflow does not know (made before this server was) is recorded as a data set
    instead, so no input is ever missing from a run.
    """
    known: list[dict[str, str]] = []
    others: dict[str, InputRef] = {}
    for role, ref in manifest.inputs.items():
        model = server.find_model(experiment, ref.digest) if facts.is_model_input(ref) else None
        if model:
            known.append({"model_id": model["model_id"]})
        else:
            others[role] = ref
    if others or known:
        inputs = {"datasets": facts.dataset_inputs(others, root), "models": known}
        server.call("POST", "runs/log-inputs", {"run_id": run_id} | inputs)
    if facts.has_model(manifest):
        server.create_model(experiment, run_id, manifest.node, facts.model_tags(manifest, root))
    server.upload(artifact_uri, "manifest.json", manifest.model_dump_json(indent=2).encode())
    summary = {f"summary.{name}": value for name, value in manifest.summary.items()}
    at = facts.epoch_ms(manifest.provenance.ended) or now_ms()
    server.log(run_id, facts.metric_rows(0, summary, at), {}, facts.done_tags(manifest, root))
    server.log(run_id, [], {}, {"k15.digest": manifest.digest})


def ensure_parent(
    server: TrackingServer,
    experiment: str,
    run_id: str,
    name: str,
    tags: Mapping[str, str],
    started_ms: int = 0,
) -> str:
    """The MLflow id of a pipeline run's parent run; made, RUNNING, if it is not there."""
    wanted = f"tags.`k15.run_id` = '{run_id}' and tags.`k15.role` = 'pipeline'"
    runs = server.search(experiment, wanted, limit=1)
    info = runs[0]["info"] if runs else server.create_run(experiment, name, tags, started_ms or now_ms())
    return str(info["run_id"])


def attach(server: TrackingServer, run_id: str, attachments: Mapping[str, bytes]) -> None:
    """Upload files to a run; nothing where the server does not pass artifacts on."""
    if attachments:
        artifact_uri = server.run(run_id)["info"]["artifact_uri"]
        for path, data in attachments.items():
            server.upload(artifact_uri, path, data)


def name_final(server: TrackingServer, experiment: str, parent: str, manifest: Manifest, root: str) -> None:
    """Tie a pipeline's run to its final model: also where all stages were found done and none nests in it."""
    uri = f"{root}/stages/{manifest.key}"
    server.log(parent, [], {}, {"k15.model_uri": uri, "k15.model_digest": manifest.digest})
    model = server.find_model(experiment, manifest.part_digest(facts.MODEL_PART))
    if model:
        body = {"run_id": parent, "datasets": [], "models": [{"model_id": model["model_id"]}]}
        server.call("POST", "runs/log-inputs", body)


def find_run(server: TrackingServer, experiment: str, manifest: Manifest) -> str:
    """The run that holds the whole record of `manifest`, or ""."""
    wanted = f"tags.`k15.key` = '{manifest.key}' and tags.`k15.digest` = '{manifest.digest}'"
    runs = server.search(experiment, wanted, limit=1)
    return str(runs[0]["info"]["run_id"]) if runs else ""


def ensure_run(
    server: TrackingServer,
    experiment: str,
    manifest: Manifest,
    root: str,
    *,
    parent: str = "",
    metrics: Sequence[dict[str, Any]] = (),
) -> bool:
    """See that MLflow holds the record of `manifest`; True where it was written. Producers come first."""
    if find_run(server, experiment, manifest):
        return False
    uri = f"{root}/stages/{manifest.key}"
    tags = facts.done_tags(manifest, root) | {
        "mlflow.parentRunId": parent,
        "mlflow.note.content": facts.note(manifest.node, manifest.kind, uri),
    }
    started = facts.epoch_ms(manifest.provenance.started) or now_ms()
    info = server.create_run(experiment, manifest.node, tags, started)
    server.log(info["run_id"], list(metrics), facts.flatten(manifest.recipe), {})
    record_stage(server, experiment, info["run_id"], info["artifact_uri"], manifest, root)
    server.end_run(info["run_id"], "FINISHED", facts.epoch_ms(manifest.provenance.ended) or now_ms())
    return True


def register_version(
    server: TrackingServer, experiment: str, name: str, manifest: Manifest, root: str
) -> str:
    """The version of registered model `name` that is this artifact, with alias `champion`; made if needed."""
    try:
        server.call("POST", "registered-models/create", {"name": name})
    except TrackingError as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    query = {"filter": f"name = '{name}'", "max_results": 1000}
    found = server.call("GET", "model-versions/search", query).get("model_versions", [])
    same = [row for row in found if mapping(row.get("tags", [])).get("k15.digest") == manifest.digest]
    version = str(same[0]["version"]) if same else _new_version(server, experiment, name, manifest, root)
    alias = {"name": name, "alias": CHAMPION, "version": version}
    server.call("POST", "registered-models/alias", alias)
    return version


def _new_version(server: TrackingServer, experiment: str, name: str, manifest: Manifest, root: str) -> str:
    uri = f"{root}/stages/{manifest.key}"
    tags = {
        "k15.uri": uri,
        "k15.digest": manifest.digest,
        "k15.key": manifest.key,
        "k15.run_id": manifest.provenance.run_id,
        "git.commit": manifest.provenance.commit,
    }
    model = server.find_model(experiment, manifest.part_digest(facts.MODEL_PART))
    body = {
        "name": name,
        "source": uri,
        "run_id": find_run(server, experiment, manifest),
        "model_id": model["model_id"] if model else "",
        "description": f"k15 lineage {uri}",
        "tags": [{"key": key, "value": value} for key, value in tags.items() if value],
    }
    made = server.call("POST", "model-versions/create", body)
    return str(made["model_version"]["version"])
