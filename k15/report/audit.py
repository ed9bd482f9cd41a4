"""The audit of one model as a plain document: what it is, how it was made, and whether it still is that."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from k15.report.audit_data import data_sets
from k15.report.audit_words import NOT_RECORDED, TO_FILL_IN, recipe_rows, said, what_it_did
from k15.store.artifact import Store
from k15.store.facts import address
from k15.store.graph import upstream
from k15.store.manifest import CorruptArtifact, InputRef, Manifest, canonical
from k15.store.runs import RunRecord, run_records
from k15.store.tree import Problem, verify

EVALUATIONS = {"evaluate": "evaluation.json", "context": "context.json"}


@dataclass(frozen=True)
class Audited:
    """What is read once: the model, the newest evaluations of it, and every stage behind them."""

    store: Store
    ref: InputRef
    model: Manifest
    evaluations: tuple[Manifest, ...]
    made: Mapping[str, Manifest]  # what the model was made from, itself included, producers first
    stages: Mapping[str, Manifest]  # those, and what only the evaluations read
    runs: tuple[RunRecord, ...]

    @property
    def run(self) -> RunRecord | None:
        """The run whose report the audit lies beside: the last that made or named the model."""
        return self.runs[-1] if self.runs else None


def read(store: Store, ref: InputRef) -> Audited:
    """Gather; what is damaged is left out here and told by the verification. ValueError: no such model."""
    model = store.manifest(ref.key)
    if model is None:
        raise ValueError(f"{store.uri(ref.key)}: no such artifact; `k15 ls` shows those there are")
    known = _readable(store)
    newest: dict[str, Manifest] = {}
    for manifest in known.values():  # the oldest first
        if manifest.kind in EVALUATIONS and any(used.key == ref.key for used in manifest.inputs.values()):
            newest[manifest.kind] = manifest
    made = upstream(known, [ref.key])
    stages = made | upstream(known, [manifest.key for manifest in newest.values()])
    ids = {manifest.provenance.run_id for manifest in stages.values()}
    runs = [r for r in run_records(store) if r.run_id in ids or r.final_key == ref.key]
    return Audited(store, ref, model, tuple(newest.values()), made, stages, tuple(runs))


def document(
    audited: Audited, *, signed_by: str = "", progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """The whole document, every byte hashed again for it; its last field is the digest of all others."""
    hashed = 0

    def count(done: int, total: int) -> None:
        nonlocal hashed
        hashed = done
        if progress is not None:
            progress(done, total)

    evaluations = [manifest.ref() for manifest in audited.evaluations]
    problems = verify(audited.store, audited.ref, count, also=evaluations)
    figures, unread = _figures(audited)
    problems += [problem for problem in unread if problem not in problems]
    today = datetime.now(UTC).isoformat(timespec="seconds")
    content: dict[str, Any] = {
        "document": "k15 audit",
        "schema_version": 1,
        "written": today,
        "model": _model(audited),
        "runs": [_run(record) for record in reversed(audited.runs)],
        "stages": [_stage(audited, manifest) for manifest in audited.stages.values()],
        "data": data_sets(audited.store, audited.stages),
        "evaluation": figures,
        "verification": {
            "date": today,
            "passed": not problems,
            "bytes": hashed,
            "problems": [asdict(problem) for problem in problems],
        },
        "sign_off": {
            "name": signed_by or TO_FILL_IN,
            "date": today[:10] if signed_by else TO_FILL_IN,
            "decision": TO_FILL_IN,
        },
    }
    return content | {"digest": digest_of(content)}


def digest_of(document: Mapping[str, Any]) -> str:
    """ "sha256:…" of the document's canonical JSON (sorted keys, no spaces) without its field `digest`."""
    content = {name: value for name, value in document.items() if name != "digest"}
    return f"sha256:{hashlib.sha256(canonical(content)).hexdigest()}"


def _readable(store: Store) -> dict[str, Manifest]:
    """Every manifest that is whole, the oldest first."""
    found: list[Manifest] = []
    for info in store.objects.list("stages/"):
        _, key, name = (*info.path.split("/"), "", "")[:3]
        if name == "manifest.json":
            try:
                found += [manifest for manifest in [store.manifest(key)] if manifest is not None]
            except CorruptArtifact:
                continue  # of this model's, the verification tells
    return {m.key: m for m in sorted(found, key=lambda m: (m.provenance.ended, m.key))}


def _model(audited: Audited) -> dict[str, Any]:
    manifest = audited.model
    try:
        config = audited.store.open(manifest.ref("model")).read_json("config.json")
    except ValueError:  # no model in it, or damaged: the verification tells
        config = {}
    return {
        "uri": audited.store.uri(audited.ref.key),
        "name": manifest.node,
        "key": manifest.key,
        "digest": manifest.digest,
        "num_files": len(manifest.files),
        "bytes": sum(entry.size for entry in manifest.files),
        "architecture": said(", ".join(config.get("architectures", []))),
        "layers": said(config.get("num_hidden_layers")),
        "hidden_size": said(config.get("hidden_size")),
        "vocabulary": said(config.get("vocab_size")),
    }


def _run(record: RunRecord) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "pipeline": record.pipeline,
        "recipe": " ".join([record.recipe, *(f"--set {text}" for text in record.overrides)]),
        "started_by": said(record.started_by),
        "state": str(record.state),
        "started": record.started,
        "ended": said(record.ended),
        "host": said(record.host),
        "commit": said(record.commit),
        "uncommitted_changes": record.dirty if record.commit else NOT_RECORDED,
        "prefect_flow_run_id": said(record.prefect_flow_run_id),
        "prefect_url": said(record.prefect_url),
        "mlflow_run_id": said(record.mlflow_parent_run_id),
    }


def _stage(audited: Audited, manifest: Manifest) -> dict[str, Any]:
    given = manifest.provenance.resolved()
    dirty = given.pop("dirty")
    given["uncommitted_changes"] = dirty if given["commit"] else NOT_RECORDED
    given["seconds"] = given["seconds"] if given["started"] else NOT_RECORDED
    names = {key: stage.node for key, stage in audited.stages.items()}
    root = audited.store.objects.settings.root
    inputs = [
        {
            "role": role,
            "from": f"file {role}" if ref.raw else names.get(ref.key, "a stage that cannot be read"),
            "part": ref.part or "whole",
            "uri": address(root, ref),
            "digest": ref.digest,
        }
        for role, ref in sorted(manifest.inputs.items())
    ]
    return {
        "name": manifest.node,
        "kind": manifest.kind,
        "version": manifest.version,
        "what": what_it_did(manifest),
        "made_the_model": manifest.key in audited.made,
        "uri": audited.store.uri(manifest.key),
        "key": manifest.key,
        "digest": manifest.digest,
        "provenance": {name: said(value) for name, value in given.items()},
        "inputs": inputs,
        "recipe": recipe_rows(manifest),
        "resources": manifest.resources,
        "licenses": said(manifest.licenses),
        "summary": said(manifest.summary),
        "files": [entry.resolved() for entry in manifest.files],
    }


def _figures(audited: Audited) -> tuple[list[dict[str, Any]], Sequence[Problem]]:
    """Every figure of the newest evaluation of each kind, and what could not be read of them."""
    figures: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for manifest in audited.evaluations:
        artifact = audited.store.open(manifest.ref())
        name = next((r for r, used in manifest.inputs.items() if used.key == audited.ref.key), "")
        head = {"stage": manifest.node, "kind": manifest.kind, "uri": artifact.uri, "digest": manifest.digest}
        try:
            values = artifact.read_json(EVALUATIONS[manifest.kind])
        except CorruptArtifact as error:
            problems.append(Problem(artifact.uri, str(error)))
            values = NOT_RECORDED
        figures.append(head | {"model": name.removeprefix("model."), "figures": values})
    return figures, problems
