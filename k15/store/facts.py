"""What MLflow is told of a stage: tags, parameters, data sets and models, from its job and its manifest.

Pure functions of what the store already records, so a lost server can be filled again from manifests alone.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from k15.store.job import Context
from k15.store.manifest import InputRef, Manifest, Provenance
from k15.store.runs import RunRecord, RunState

MODEL_PART = "model"
DIGEST_CHARS = 36  # the most MLflow keeps of a data set's digest
REFUSED = re.compile(r"[^\w\-. :/]")  # in the name of a metric
ENDS = {RunState.DONE: "FINISHED", RunState.FAILED: "FAILED", RunState.CANCELLED: "KILLED"}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested tables as dotted names: {"update": {"lr": 1e-4}} is {"update.lr": "0.0001"}."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def address(root: str, ref: InputRef) -> str:
    """Where an input lies: the raw file, or the stage whose part it is."""
    return f"{root}/raw/{ref.key}" if ref.raw else f"{root}/stages/{ref.key}"


def stage_tags(node: str, kind: str, key: str, source: Context | Provenance) -> dict[str, str]:
    """What identifies a stage's run: who ran it, from which commit and image, for which flow run."""
    return {
        "k15.role": "stage",
        "k15.node": node,
        "k15.stage": kind,
        "k15.key": key,
        "k15.run_id": source.run_id,
        "k15.image_digest": source.image_digest,
        "k15.lock_digest": source.lock_digest,
        "k15.launcher": source.launcher,
        "git.commit": source.commit,
        "git.dirty": str(source.dirty).lower(),
        "prefect.flow_run_id": source.prefect_flow_run_id,
        "prefect.task_run_id": source.prefect_task_run_id,
        "mlflow.source.name": f"stages/{kind}.py",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": source.commit,
    }


def done_tags(manifest: Manifest, root: str) -> dict[str, str]:
    """What a finished run adds; `k15.digest` is written last of all and says that the record is whole."""
    provenance = manifest.provenance
    return stage_tags(manifest.node, manifest.kind, manifest.key, provenance) | {
        "k15.uri": f"{root}/stages/{manifest.key}",
        "k15.version": str(manifest.version),
        "k15.code_digest": provenance.code_digest,
        "k15.host": provenance.host,
    }


def note(node: str, kind: str, uri: str) -> str:
    """The description of a stage's run, in Markdown."""
    return f"**{node}** ({kind})\n\n- artifact: `{uri}`\n- audit: `k15 lineage {uri}`"


def model_name(pipeline: str) -> str:
    """The registered model of a pipeline."""
    return f"k15-{pipeline}"


def run_tags(record: RunRecord) -> dict[str, str]:
    """What identifies the run of a whole pipeline, with a note on its report and its Prefect run."""
    lines = [f"**{record.pipeline}** {record.run_id}", ""]
    lines.append(f"- report: attached as `report.html`; again with `k15 report --run {record.run_id}`")
    if record.prefect_url:
        lines.append(f"- Prefect: [{record.prefect_url}]({record.prefect_url})")
    return {
        "k15.role": "pipeline",
        "k15.pipeline": record.pipeline,
        "k15.run_id": record.run_id,
        "git.commit": record.commit,
        "git.dirty": str(record.dirty).lower(),
        "prefect.flow_run_id": record.prefect_flow_run_id,
        "mlflow.source.name": "flows/pipeline.py",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": record.commit,
        "mlflow.note.content": "\n".join(lines),
    }


def is_model_input(ref: InputRef) -> bool:
    """Whether an input is a model, by the name of its part."""
    return ref.part == MODEL_PART


def has_model(manifest: Manifest) -> bool:
    """Whether an artifact holds a Hugging Face model directory."""
    return any(entry.path == f"{MODEL_PART}/config.json" for entry in manifest.files)


def dataset_inputs(inputs: Mapping[str, InputRef], root: str) -> list[dict[str, Any]]:
    """Every input that is no model as an MLflow data set; its source names the artifact and full digest."""
    rows = []
    for role, ref in sorted(inputs.items()):
        if is_model_input(ref):
            continue
        source = {"uri": address(root, ref), "part": ref.part, "digest": ref.digest}
        dataset = {
            "name": ref.part or role,
            "digest": ref.digest[-DIGEST_CHARS:],
            "source_type": "k15_cas",
            "source": json.dumps(source),
        }
        tags = {"mlflow.data.context": role, "k15.key": ref.key, "k15.raw": str(ref.raw).lower()}
        rows.append(
            {"dataset": dataset, "tags": [{"key": key, "value": value} for key, value in tags.items()]}
        )
    return rows


def model_tags(manifest: Manifest, root: str) -> dict[str, str]:
    """Tags of the logged model of an artifact; `k15.digest` is that of its part `model`."""
    return {
        "k15.key": manifest.key,
        "k15.node": manifest.node,
        "k15.uri": f"{root}/stages/{manifest.key}",
        "k15.part": MODEL_PART,
        "k15.digest": manifest.part_digest(MODEL_PART),
    }


def metric_rows(step: int, values: Mapping[str, float | None], at_ms: int) -> list[dict[str, Any]]:
    """Metrics as MLflow takes them: what is not finite as the words its API reads, None left out.

    Characters that MLflow refuses in a name, which would refuse the whole batch, become "_".
    """
    return [
        {"key": REFUSED.sub("_", name), "value": _json_number(float(value)), "timestamp": at_ms, "step": step}
        for name, value in values.items()
        if value is not None
    ]


def _json_number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def epoch_ms(iso: str) -> int:
    """An ISO time as MLflow counts it; 0 where it is not known."""
    return int(datetime.fromisoformat(iso).timestamp() * 1000) if iso else 0
