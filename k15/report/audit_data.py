"""The audit's data sets: what was read, how much of it, and under which licences."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from k15.report.audit_words import NOT_RECORDED
from k15.store.artifact import Store
from k15.store.attempt import Artifact
from k15.store.facts import address, is_model_input
from k15.store.graph import upstream
from k15.store.manifest import InputRef, Manifest
from k15.store.objects import PART_BYTES

METRICS = "metrics.jsonl"  # of the stage itself, no data
PARQUET = b"PAR1"
Licenses = list[dict[str, str]]


def data_sets(store: Store, stages: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """Every raw input, and every part of an artifact that a stage read and that is no model; each once."""
    readers: dict[InputRef, list[tuple[Manifest, str]]] = {}
    for manifest in stages.values():
        for role, ref in sorted(manifest.inputs.items()):
            if ref.raw or not is_model_input(ref):
                readers.setdefault(ref, []).append((manifest, role))
    return [_data_set(store, stages, ref, by) for ref, by in readers.items()]


def _data_set(
    store: Store, stages: Mapping[str, Manifest], ref: InputRef, by: list[tuple[Manifest, str]]
) -> dict[str, Any]:
    producer = stages.get(ref.key)
    consumer, role = by[0]
    name = f"file {role}" if ref.raw else f"{producer.node if producer else 'unreadable'}:{ref.part or 'all'}"
    row: dict[str, Any] = {
        "name": name,
        "raw": ref.raw,
        "read_by": [f"{manifest.node} as {role}" for manifest, role in by],
        "uri": address(store.objects.settings.root, ref),
        "digest": ref.digest,
        "num_files": NOT_RECORDED,
        "bytes": NOT_RECORDED,
        "rows": NOT_RECORDED,
        "licenses": _licenses_of(stages, ref, consumer, role),
    }
    try:
        artifact = store.open(ref)
        row |= {"num_files": len(artifact.files), "bytes": sum(entry.size for entry in artifact.files)}
        row["rows"] = _count_rows(artifact)
    except ValueError:  # lost or damaged: the verification tells
        pass
    return row


def _licenses_of(stages: Mapping[str, Manifest], ref: InputRef, consumer: Manifest, role: str) -> Licenses:
    """Of a raw input, what its consumer recorded; of a part, of everything that went into it."""
    if ref.raw:
        return [{"of": f"file {role}", "license": consumer.licenses.get(role, NOT_RECORDED)}]
    found: dict[str, str] = {}
    for manifest in upstream(stages, [ref.key]).values():
        raw = [name for name, used in manifest.inputs.items() if used.raw]
        found |= {
            f"file {name} of {manifest.node}": manifest.licenses.get(name, NOT_RECORDED) for name in raw
        }
        found |= {name: text for name, text in manifest.licenses.items() if name not in raw}
        if not manifest.inputs and not manifest.licenses:
            found[f"what {manifest.node} generated"] = NOT_RECORDED
    return [{"of": name, "license": text} for name, text in found.items()] or [
        {"of": "all of it", "license": NOT_RECORDED}
    ]


def _count_rows(artifact: Artifact) -> int | str:
    """Rows of its Parquet and JSONL files, which are read and verified for it; NOT_RECORDED: it has none.

    A raw file has no name in the store, so that what it is shows in its first bytes.
    """
    counts: list[int | None] = []
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "table"
        for entry in artifact.files:
            suffix = Path(entry.path).suffix
            if suffix in ("", ".parquet", ".jsonl") and entry.path != METRICS:
                artifact.copy_file(entry.path, local)
                counts.append(_rows_of(local))
    counted = [count for count in counts if count is not None]
    return sum(counted) if counted else NOT_RECORDED


def _rows_of(local: Path) -> int | None:
    with local.open("rb") as source:
        start = source.read(4)
        if start == PARQUET:
            return int(parquet.read_metadata(local).num_rows)
        if not start.startswith(b"{"):
            return None
        source.seek(0)
        counted, last = 0, b"\n"
        while piece := source.read(PART_BYTES):
            counted, last = counted + piece.count(b"\n"), piece[-1:]
        return counted + (last != b"\n")
