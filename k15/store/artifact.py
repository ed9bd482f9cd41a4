"""The artifact store: attempts that are written, manifests that commit them, reads that verify.

Layout, under the bucket's prefix:
    attempts/<key>/<uuid>/<path>     bytes of an attempt; the manifest names the one that counts
    stages/<key>/manifest.json       conditional put; its existence is "done"
    rounds/<key>/<number>.json       conditional put; a round of a stage, with its own attempt
    steps/<key>/<number>.json        conditional put; a step checkpoint of a stage at work (k15.store.steps)
    phases/<key>/<number>/…          segments of a round under way (k15.store.journal)
    leases/<key>.json                who may commit, with a fencing epoch
    jobs/<key>/<uuid>.json           resolved jobs
    raw/<sha256>                     user files, by content; a folder's at raw/<digest>/<path>
    cache/tokens/<digest>/<row>.parquet   tokens of a table's rows, to be lost at any time (k15.store.tokens)
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from uuid import uuid4

from k15.store import raw
from k15.store.attempt import Artifact, Attempt
from k15.store.job import Job
from k15.store.manifest import (
    CorruptArtifact,
    InputRef,
    Manifest,
    Provenance,
    RoundManifest,
    canonical,
    corrupt,
    table_digest,
)
from k15.store.objects import Objects, StoreError

__all__ = ["Artifact", "Attempt", "CorruptArtifact", "Store", "manifest_path"]

M = TypeVar("M", bound=RoundManifest)


class Fence(Protocol):
    """What a commit asks of the lease it happens under."""

    epoch: int

    def check(self) -> None:
        """Raises where the lease is lost."""


class Store:
    """Every artifact of one bucket. Commits under a key whose lease this process holds check the lease."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.fences: dict[str, Fence] = {}

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Self:
        """The store that `env` names (K15_S3_*, AWS_*)."""
        return cls(Objects.from_environment(env))

    def uri(self, key: str, part: str = "") -> str:
        """s3://bucket/prefix/stages/<key>, with /<part> where one is meant."""
        return self.objects.uri(f"stages/{key}" + (f"/{part}" if part else ""))

    def manifest(self, key: str) -> Manifest | None:
        """The manifest of a finished stage, None where it is not done."""
        path = manifest_path(key)
        try:
            data = self.objects.get(path)
        except FileNotFoundError:
            return None
        return _decoded(data, key, self.objects.uri(path))

    def manifests(self) -> list[Manifest]:
        """Every finished stage, the oldest first."""
        paths = [info.path for info in self.objects.list("stages/") if info.path.endswith("/manifest.json")]
        found = self.objects.get_many(paths)
        manifests = [
            _decoded(data, path.split("/")[1], self.objects.uri(path)) for path, data in found.items()
        ]
        return sorted(manifests, key=lambda manifest: (manifest.provenance.ended, manifest.key))

    def find(self, text: str) -> InputRef:
        """The artifact meant by an s3:// URI of this store, a key, a key's beginning, or a node's name.

        Each may end in ":part" (or "/part" in a URI). ValueError says what there is.
        """
        root = self.objects.uri("stages/")
        if text.startswith("s3://"):
            if not text.startswith(root):
                raise ValueError(f"{text}: not in this store; its artifacts are {root}<key>")
            text = text.removeprefix(root).replace("/", ":", 1)
        name, _, part = text.removesuffix("/").partition(":")
        manifests = self.manifests()
        found = [m for m in manifests if m.node == name][-1:] or [
            m for m in manifests if len(name) >= 6 and m.key.startswith(name)
        ]
        if len(found) != 1:
            nodes = sorted({m.node for m in manifests})
            raise ValueError(f"{text}: {len(found)} artifacts match in {root}; finished nodes: {nodes}")
        return found[0].ref(part)

    def open_manifest(self, manifest: Manifest, part: str = "") -> Artifact:
        """A finished stage's artifact, or one folder of it."""
        return self.open(manifest.ref(part))

    def open(self, ref: InputRef) -> Artifact:
        """The artifact an input means; CorruptArtifact where its content is not the input's digest."""
        if ref.raw:
            return raw.open_raw(self.objects, ref)
        manifest = self.manifest(ref.key)
        if manifest is None:
            raise ValueError(f"{self.uri(ref.key)}: no such artifact; run the stage that makes it")
        files = manifest.part(ref.part)
        uri = self.uri(ref.key, ref.part)
        if table_digest(files) != ref.digest:
            raise corrupt(uri, f"its files are {table_digest(files)}, the reference says {ref.digest}")
        base = f"attempts/{ref.key}/{manifest.attempt}/" + (f"{ref.part}/" if ref.part else "")
        return Artifact(self.objects, uri, base, files, manifest)

    def begin(self, key: str) -> Attempt:
        """A new attempt under a key; nothing counts until it is committed."""
        return Attempt(self.objects, key, str(uuid4()))

    def commit(
        self,
        attempt: Attempt,
        job: Job,
        provenance: Provenance,
        summary: dict[str, float],
        licenses: Mapping[str, str] | None = None,
    ) -> Manifest:
        """Make an attempt the stage's result. The loser of a race gets the winner's manifest.

        `licenses` are those of what the stage generated; the job's, of raw inputs, are recorded with them.
        """
        manifest = Manifest(
            key=job.key,
            node=job.node,
            kind=job.kind,
            version=job.version,
            code=job.code,
            recipe=job.recipe,
            inputs=job.inputs,
            attempt=attempt.id,
            files=attempt.files,
            digest=table_digest(attempt.files),
            summary=summary,
            resources=job.resources.resolved(),
            provenance=provenance,
            licenses={**job.licenses, **(licenses or {})},
        )
        self.check_fence(job.key)
        self.objects.put_if_absent(manifest_path(job.key), manifest.encode())
        winner = self.manifest(job.key)
        if winner is None:
            raise StoreError(f"{self.uri(job.key)}: its manifest vanished after the commit")
        return winner

    def ingest(self, local: Path) -> InputRef:
        """A user's file or folder as an input, by its content; uploaded once."""
        return raw.ingest(self.objects, local)

    def put_job(self, job: Job) -> str:
        """Store a job; returns the URI that `python -m stages.<kind> --job URI` takes."""
        path = f"jobs/{job.key}/{uuid4()}.json"
        self.objects.put(path, canonical(job.resolved()))
        return self.objects.uri(path)

    def job(self, uri: str) -> Job:
        """A stored job by its URI; ValueError names what is wrong."""
        root = self.objects.uri("")
        if not uri.startswith(root):
            raise ValueError(f"{uri}: not in this store ({root}); set K15_S3_BUCKET and K15_S3_PREFIX")
        try:
            values = json.loads(self.objects.get(uri.removeprefix(root)))
        except FileNotFoundError:
            raise ValueError(f"{uri}: no such job; write it first, or pass a local file's path") from None
        return Job.parse(values, where=uri)

    def commit_round(self, key: str, number: int, attempt: Attempt, state: dict[str, Any]) -> bool:
        """Commit round `number` (0, 1, …, each once, in order); False where another writer has it."""
        if number and not self.objects.exists(round_path(key, number - 1)):
            raise ValueError(f"{self.uri(key)}: round {number - 1} is not committed, so {number} cannot be")
        record = self.numbered(RoundManifest, key, number, attempt, state)
        return self.objects.put_if_absent(round_path(key, number), record.encode())

    def numbered(self, kind: type[M], key: str, number: int, attempt: Attempt, state: dict[str, Any]) -> M:
        """The record of a round or a step checkpoint, to be put; LeaseLost where the key's lease is lost."""
        self.check_fence(key)
        fence = self.fences.get(key)
        return kind(
            key=key,
            number=number,
            attempt=attempt.id,
            state=state,
            files=attempt.files,
            digest=table_digest(attempt.files),
            epoch=fence.epoch if fence else 0,
            committed=datetime.now(UTC).isoformat(),
        )

    def rounds(self, key: str) -> list[RoundManifest]:
        """Every committed round of a stage, in order."""
        found = self.objects.get_many([info.path for info in self.objects.list(f"rounds/{key}/")])
        return [RoundManifest.decode(data, self.objects.uri(path)) for path, data in sorted(found.items())]

    def last_round(self, key: str) -> RoundManifest | None:
        """The newest committed round of a stage, None before the first."""
        paths = [info.path for info in self.objects.list(f"rounds/{key}/")]
        if not paths:
            return None
        return RoundManifest.decode(self.objects.get(max(paths)), self.objects.uri(max(paths)))

    def open_round(self, record: RoundManifest) -> Artifact:
        """The files of a committed round."""
        uri = self.objects.uri(round_path(record.key, record.number))
        base = f"attempts/{record.key}/{record.attempt}/"
        return Artifact(self.objects, uri, base, record.files, None, record.remedy(uri))

    def check_fence(self, key: str) -> None:
        """LeaseLost where this process held the key's lease and does no more."""
        fence = self.fences.get(key)
        if fence is not None:
            fence.check()


def manifest_path(key: str) -> str:
    """Where a stage's manifest lies."""
    return f"stages/{key}/manifest.json"


def round_path(key: str, number: int) -> str:
    """Where a round's manifest lies."""
    return f"rounds/{key}/{number:06d}.json"


def _decoded(data: bytes, key: str, uri: str) -> Manifest:
    manifest = Manifest.decode(data, uri)
    if manifest.key != key:
        raise corrupt(uri, f"it is the manifest of {manifest.key}")
    return manifest
