"""What a user brings, as inputs by content: a file at raw/<sha256>, a folder at raw/<digest>/<path>.

A folder's table of files lies beside them, so its digest covers every name, size and byte. Hidden files and
pickled weights do not enter.
"""

import hashlib
import json
from pathlib import Path, PurePosixPath

from k15.store.attempt import PICKLES, Artifact
from k15.store.manifest import FileEntry, InputRef, canonical, corrupt, table_digest
from k15.store.objects import PART_BYTES, Objects

FOLDER = "."  # the part of a folder's reference
TABLE = ".files.json"


def reference(local: Path) -> InputRef:
    """A file or folder as an input, by its content; ValueError where there is none, or nothing in it."""
    return _folder_ref(_entries(local)) if local.is_dir() else _file_ref(hash_file(local))


def ingest(objects: Objects, local: Path) -> InputRef:
    """Bring a file or folder into the store, once; ValueError where it changes meanwhile."""
    if not local.is_dir():
        entry = hash_file(local)
        _upload(objects, local, f"raw/{entry.sha256}", entry)
        return _file_ref(entry)
    entries = _entries(local)
    ref = _folder_ref(entries)
    table = f"raw/{ref.key}/{TABLE}"
    if not objects.exists(table):  # written last: it is there where the folder is whole
        for entry in entries:
            _upload(objects, local / entry.path, f"raw/{ref.key}/{entry.path}", entry)
        objects.put(table, canonical([entry.resolved() for entry in entries]))
    return ref


def open_raw(objects: Objects, ref: InputRef) -> Artifact:
    """A user's file or folder; ValueError where the store does not have it, or not as it was."""
    uri = objects.uri(f"raw/{ref.key}")
    try:
        if ref.part != FOLDER:
            size = objects.version(f"raw/{ref.key}").size
            entry = FileEntry(path=ref.key, size=size, sha256=ref.key)
            return Artifact(objects, uri, "raw/", (entry,), None)
        table = objects.get(f"raw/{ref.key}/{TABLE}")
    except FileNotFoundError:
        raise ValueError(f"{uri}: no such file; run the pipeline to ingest it") from None
    try:
        entries = tuple(FileEntry.parse(values, where=uri) for values in json.loads(table))
    except ValueError as error:
        raise corrupt(uri, f"its table of files is not readable ({error})") from None
    if table_digest(entries) != ref.digest:
        raise corrupt(uri, f"its files are {table_digest(entries)}, the reference says {ref.digest}")
    return Artifact(objects, uri, f"raw/{ref.key}/", entries, None)


def hash_file(local: Path) -> FileEntry:
    """Size and SHA-256 of a local file, read in pieces; ValueError where there is none."""
    if not local.is_file():
        raise ValueError(f"{local}: no such file; correct the path")
    digest = hashlib.sha256()
    with local.open("rb") as source:
        while piece := source.read(PART_BYTES):
            digest.update(piece)
    return FileEntry(path=local.name, size=local.stat().st_size, sha256=digest.hexdigest())


def _entries(folder: Path) -> tuple[FileEntry, ...]:
    found = []
    for path in sorted(folder.rglob("*")):
        name = PurePosixPath(path.relative_to(folder))
        if path.is_file() and name.suffix not in PICKLES and not any(p.startswith(".") for p in name.parts):
            found.append(hash_file(path).model_copy(update={"path": str(name)}))
    if not found:
        raise ValueError(f"{folder}: an empty folder; correct the path")
    return tuple(found)


def _file_ref(entry: FileEntry) -> InputRef:
    return InputRef(key=entry.sha256, digest=f"sha256:{entry.sha256}", raw=True)


def _folder_ref(entries: tuple[FileEntry, ...]) -> InputRef:
    digest = table_digest(entries)
    return InputRef(key=digest.removeprefix("sha256:"), part=FOLDER, digest=digest, raw=True)


def _upload(objects: Objects, local: Path, path: str, entry: FileEntry) -> None:
    try:
        if objects.version(path).size == entry.size:
            return
    except FileNotFoundError:
        pass
    with objects.writer(path) as stream, local.open("rb") as source:
        while piece := source.read(PART_BYTES):
            stream.write(piece)
        if stream.sha256 != entry.sha256:
            raise ValueError(f"{local}: changed while it was read; keep it still and rerun")
