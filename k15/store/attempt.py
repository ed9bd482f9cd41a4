"""Both ends of an artifact's bytes: an attempt writes and hashes, an artifact reads and verifies."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow

from k15.store.manifest import REMEDY, FileEntry, Manifest, corrupt, part_files
from k15.store.objects import PART_BYTES, Objects, Writer
from k15.store.tables import decode_table, encode_table

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class Attempt:
    """The bytes of one try at a stage or a round; each file's digest is taken as it streams."""

    def __init__(self, objects: Objects, key: str, attempt_id: str) -> None:
        self.key = key
        self.id = attempt_id
        self._objects = objects
        self._files: dict[str, FileEntry] = {}

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """What has been written, by path."""
        return tuple(self._files[path] for path in sorted(self._files))

    @contextmanager
    def open(self, path: str) -> Iterator[Writer]:
        """A streaming write of one file, which counts once the block ends well; ValueError on a bad path."""
        _check_path(path)
        if path in self._files:
            raise ValueError(f"{path}: written twice in one attempt; give each file its own path")
        with self._objects.writer(f"attempts/{self.key}/{self.id}/{path}") as stream:
            yield stream
        self._files[path] = FileEntry(path=path, size=stream.size, sha256=stream.sha256)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write one file."""
        with self.open(path) as stream:
            stream.write(data)

    def write_json(self, path: str, value: Any) -> None:
        """Write readable JSON; ValueError on NaN and infinities."""
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        self.write_bytes(path, text.encode() + b"\n")

    def write_table(self, path: str, table: pyarrow.Table) -> None:
        """Write a Parquet table."""
        self.write_bytes(path, encode_table(table))

    def add_file(self, path: str, local: Path) -> None:
        """Copy a local file, in pieces."""
        with self.open(path) as stream, local.open("rb") as source:
            while piece := source.read(PART_BYTES):
                stream.write(piece)

    def add_directory(self, prefix: str, local: Path) -> None:
        """Copy every file under a local directory to `prefix`/."""
        files = sorted(file for file in local.rglob("*") if file.is_file())
        if not files:
            raise ValueError(f"{local}: no files to add under {prefix!r}")
        for file in files:
            self.add_file(str(PurePosixPath(prefix) / file.relative_to(local).as_posix()), file)


class Artifact:
    """Committed files, read-only. Every read verifies the whole file and raises CorruptArtifact otherwise.

    Paths are relative to the part that was opened. A user's raw file is an artifact of one file.
    """

    def __init__(
        self,
        objects: Objects,
        uri: str,
        base: str,
        files: tuple[FileEntry, ...],
        manifest: Manifest | None,
        remedy: str = REMEDY,
    ) -> None:
        self.uri = uri
        self.files = files
        self.manifest = manifest  # None for a raw file and for a round
        self._objects = objects
        self._base = base
        self._remedy = remedy  # for damage

    def read_bytes(self, path: str = "") -> bytes:
        """A file whole; with no path, the only one."""
        return b"".join(self._verified(self._entry(path)))

    def read_json(self, path: str = "") -> Any:
        """A JSON file."""
        return json.loads(self.read_bytes(path))

    def read_table(self, path: str = "") -> pyarrow.Table:
        """A Parquet file."""
        return decode_table(self.read_bytes(path))

    def copy_file(self, path: str, local: Path) -> None:
        """Copy one file to `local`, in pieces; with path "", the only one."""
        with local.open("wb") as sink:
            for piece in self._verified(self._entry(path)):
                sink.write(piece)

    def download(self, directory: Path, prefix: str = "") -> Path:
        """Copy the files (under `prefix`) to `directory`/<their path>, in pieces; returns `directory`."""
        below = prefix.strip("/") + "/" if prefix else ""
        entries = [entry for entry in self.files if entry.path.startswith(below)]
        if not entries:
            raise ValueError(f"{self.uri}: no files under {prefix!r}; it has {self._names()}")
        for entry in entries:
            target = directory / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as sink:
                for piece in self._verified(entry):
                    sink.write(piece)
        return directory

    def verify(self, entry: FileEntry) -> None:
        """Re-hash one stored file; CorruptArtifact names its URI."""
        for _ in self._verified(entry):
            pass

    def part(self, part: str) -> "Artifact":
        """One folder of it as an artifact."""
        files = part_files(self.files, part)
        uri, base = f"{self.uri}/{part}", f"{self._base}{part}/"
        return Artifact(self._objects, uri, base, files, self.manifest, self._remedy)

    def _entry(self, path: str) -> FileEntry:
        found = [entry for entry in self.files if entry.path == path or not path]
        if len(found) != 1:
            raise ValueError(f"{self.uri}: no one file {path!r}; it has {self._names()}")
        return found[0]

    def _names(self) -> list[str]:
        return [entry.path for entry in self.files[:20]]

    def _verified(self, entry: FileEntry) -> Iterator[bytes]:
        path = self._base + entry.path
        uri = self._objects.uri(path)
        digest = hashlib.sha256()
        try:
            if entry.size > PART_BYTES:  # read by ranges, which an object cut short does not have
                size = self._objects.version(path).size
                if size != entry.size:
                    raise corrupt(uri, f"{size} bytes long, the manifest says {entry.size}", self._remedy)
            for piece in self._objects.chunks(path, entry.size):
                digest.update(piece)
                yield piece
        except FileNotFoundError:
            raise corrupt(uri, "the manifest names it and it is gone", self._remedy) from None
        if digest.hexdigest() != entry.sha256:
            what = f"sha256 is {digest.hexdigest()}, the manifest says {entry.sha256}"
            raise corrupt(uri, what, self._remedy)


def _check_path(path: str) -> None:
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or str(pure) != path:
        raise ValueError(f"{path!r}: not a plain relative path")
    if pure.suffix in PICKLES:
        raise ValueError(f"{path}: pickled weights are not stored; save safetensors instead")
