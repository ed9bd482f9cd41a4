"""Step checkpoints of a stage at work: what a killed one goes on from.

    steps/<key>/<number>.json     conditional put; names the attempt with the state after `number` updates

A checkpoint's bytes are an attempt of its own under the stage's key. It is written last, under the stage's
lease; the newest KEPT stay until the stage is done. `k15 gc` takes what a killed process left.
"""

import contextlib
from pathlib import Path
from typing import Any

from k15.store.artifact import Artifact, Store
from k15.store.manifest import CorruptArtifact, RoundManifest, corrupt, table_digest
from k15.store.objects import Objects

KEPT = 2  # the one before the last serves where the last proves damaged


class StepManifest(RoundManifest):
    """A committed checkpoint: `number` updates are made; `state` is the loop's, `files` hold the rest."""


class Steps:
    """The checkpoints of one stage."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key

    def records(self) -> list[StepManifest]:
        """Every checkpoint, the oldest first; CorruptArtifact where one is not what was written here."""
        found = sorted(self._store.objects.get_many(self._paths()).items())
        return [decode_step(data, path, self._store.objects) for path, data in found]

    def last(self) -> StepManifest | None:
        """The newest checkpoint, None before the first; CorruptArtifact as `records`."""
        paths = self._paths()
        if not paths:
            return None
        return decode_step(self._store.objects.get(paths[-1]), paths[-1], self._store.objects)

    def download(self, record: StepManifest, directory: Path) -> Path:
        """Copy a checkpoint's files to `directory`; CorruptArtifact names one that is damaged or gone."""
        base = f"attempts/{self._key}/{record.attempt}/"
        return Artifact(self._store.objects, self.uri(record), base, record.files, None).download(directory)

    def save(self, number: int, directory: Path, state: dict[str, Any]) -> None:
        """Commit the files of `directory` as the state after `number` updates, and sweep older ones.

        LeaseLost where the stage's lease is; RuntimeError where another process committed this number.
        """
        attempt = self._store.begin(self._key)
        attempt.add_directory("", directory)
        record = self._store.numbered(StepManifest, self._key, number, attempt, state)
        path = step_path(self._key, number)
        if not self._store.objects.put_if_absent(path, record.encode()):
            raise RuntimeError(
                f"{self.uri(record)}: another process committed this step; run the stage again"
            )
        self._remove([older for older in self._paths() if older <= path][:-KEPT])

    def clear(self) -> None:
        """Remove every checkpoint: the stage is done."""
        self._remove(self._paths())

    def uri(self, record: StepManifest) -> str:
        """The s3:// address of a checkpoint's manifest."""
        return self._store.objects.uri(step_path(self._key, record.number))

    def _paths(self) -> list[str]:
        return [info.path for info in self._store.objects.list(f"steps/{self._key}/")]

    def _remove(self, paths: list[str]) -> None:
        """Manifests first: what they named is an orphan then, and never a checkpoint without its bytes."""
        objects = self._store.objects
        doomed = []
        for path, data in objects.get_many(paths).items():
            with contextlib.suppress(CorruptArtifact):  # whose bytes are left to `k15 gc`
                record = decode_step(data, path, objects)
                base = f"attempts/{self._key}/{record.attempt}/"
                doomed += [base + entry.path for entry in record.files]
        objects.delete(paths)
        objects.delete(doomed)


def decode_step(data: bytes, path: str, objects: Objects) -> StepManifest:
    """A checkpoint's manifest as stored at `path`; CorruptArtifact where it is damaged or another's."""
    uri = objects.uri(path)
    record = StepManifest.decode(data, uri)
    if step_path(record.key, record.number) != path:
        raise corrupt(uri, f"it is step {record.number} of stage {record.key}")
    if table_digest(record.files) != record.digest:
        raise corrupt(uri, "its digest does not fit its table of files")
    return record


def step_path(key: str, number: int) -> str:
    """Where a checkpoint's manifest lies."""
    return f"steps/{key}/{number:09d}.json"
