"""Manifests: what an attempt made, from what, and where; written last, by conditional put."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from pydantic import ValidationError

from k15.config import Config

REMEDY = "delete it (of a stage: its manifest.json) and rerun"


class CorruptArtifact(ValueError):
    """Stored bytes are not what a digest says; the message names the URI."""


class FileEntry(Config):
    """One file of an artifact. `sha256` is plain hex."""

    path: str
    size: int
    sha256: str


class InputRef(Config):
    """An input by content. `digest` is that of the part; a raw file's `key` is its own sha256."""

    key: str
    part: str = ""
    digest: str
    raw: bool = False


class Provenance(Config):
    """What ran, where and when: recorded beside the key, never in it. Empty where unknown."""

    commit: str = ""
    dirty: bool = False
    image_digest: str = ""
    lock_digest: str = ""
    code_digest: str = ""
    host: str = ""
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    run_id: str = ""
    prefect_flow_run_id: str = ""
    prefect_task_run_id: str = ""
    mlflow_run_id: str = ""
    launcher: str = ""


class Record(Config):
    """A stored JSON record that carries the checksum of its own content.

    `added` names the fields that came after the first records were written. At their default they are not
    written, so a record from before a field keeps its bytes and its checksum.
    """

    added: ClassVar[frozenset[str]] = frozenset()
    checksum: str = ""

    def encode(self) -> bytes:
        """Canonical JSON with the checksum filled in."""
        absent = {name for name in self.added if getattr(self, name) == type(self).model_fields[name].default}
        content = {name: value for name, value in self.resolved().items() if name not in absent}
        content["checksum"] = ""
        return canonical({**content, "checksum": sha256(content)})

    @classmethod
    def decode(cls, data: bytes, uri: str) -> Self:
        """Parse and verify; CorruptArtifact where any byte differs from what was written."""
        remedy = cls.remedy(uri)
        try:
            record = cls.model_validate_json(data)
        except ValidationError as error:
            problem = error.errors()[0]
            raise corrupt(uri, f"not a readable record ({problem['msg']})", remedy) from None
        if record.encode() != data:
            raise corrupt(uri, "its checksum does not fit its content", remedy)
        return record

    @classmethod
    def remedy(cls, uri: str) -> str:  # noqa: ARG003 (a round's names itself)
        """What to do about a damaged record, or files of it, where nothing can be restored."""
        return REMEDY


class Manifest(Record):
    """A finished stage: its existence under the stage key is "done"."""

    added: ClassVar[frozenset[str]] = frozenset({"licenses"})
    schema_version: int = 1
    key: str
    node: str
    kind: str
    version: int
    code: str = ""  # in the key of a strict run only
    recipe: dict[str, Any]
    inputs: dict[str, InputRef]
    attempt: str
    files: tuple[FileEntry, ...]
    digest: str
    summary: dict[str, float]
    resources: dict[str, Any]
    provenance: Provenance
    licenses: dict[str, str] = {}  # of raw inputs, by role, and of what the stage generated, by its source

    def part(self, part: str) -> tuple[FileEntry, ...]:
        """The files under a folder ("" for all), their paths relative to it."""
        return part_files(self.files, part)

    def part_digest(self, part: str) -> str:
        """The digest of the file table under a folder ("" for the whole artifact)."""
        return table_digest(self.part(part))

    def ref(self, part: str = "") -> InputRef:
        """This artifact, or one folder of it, as an input."""
        return InputRef(key=self.key, part=part, digest=self.part_digest(part))

    def expected_key(self) -> str:
        """The stage key that follows from what the manifest records."""
        return stage_key(self.kind, self.version, self.recipe, self.inputs, self.code)


class RoundManifest(Record):
    """A committed round of a stage: its state, and the files of its own attempt."""

    schema_version: int = 1
    key: str
    number: int
    attempt: str
    state: dict[str, Any]
    files: tuple[FileEntry, ...]
    digest: str
    epoch: int = 0  # of the lease it was committed under
    committed: str = ""

    @classmethod
    def remedy(cls, uri: str) -> str:
        """A stage goes on from its last round, so those that built on this one go with it."""
        return f"delete {uri} and every later round beside it, and rerun"


def canonical(value: Any) -> bytes:
    """The one JSON form that digests are taken of; ValueError on NaN and infinities."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def stage_key(
    kind: str, version: int, recipe: dict[str, Any], inputs: dict[str, InputRef], code: str = ""
) -> str:
    """The identity of a stage's result: kind, version, resolved recipe, content digests of its inputs."""
    identity: dict[str, Any] = {
        "kind": kind,
        "version": version,
        "recipe": recipe,
        "inputs": {role: ref.digest for role, ref in inputs.items()},
    }
    if code:
        identity["code"] = code
    return sha256(identity)


def part_files(files: Iterable[FileEntry], part: str) -> tuple[FileEntry, ...]:
    """The entries under a folder, their paths relative to it ("" keeps all as they are)."""
    if not part:
        return tuple(files)
    prefix = part.strip("/") + "/"
    return tuple(
        entry.model_copy(update={"path": entry.path[len(prefix) :]})
        for entry in files
        if entry.path.startswith(prefix)
    )


def table_digest(files: Iterable[FileEntry]) -> str:
    """ "sha256:…" of the canonical file table: path, size and sha256, by path."""
    table = sorted((entry.path, entry.size, entry.sha256) for entry in files)
    return f"sha256:{sha256(table)}"


def corrupt(uri: str, what: str, remedy: str = REMEDY) -> CorruptArtifact:
    """The error for bytes that are not what their digest says; `remedy` is for who cannot restore them."""
    return CorruptArtifact(f"{uri}: corrupt: {what}; restore it, or {remedy}")
