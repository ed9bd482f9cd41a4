"""Objects in one bucket of any S3 endpoint: conditional puts, streamed writes with digests.

Times that decide anything (the age of an object) are the server's own, so hosts' clocks need not agree.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from k15.store.client import LOOPBACK, Client, PreconditionFailed
from k15.store.settings import Credentials, StoreError, StoreSettings, StoreUnreachable

__all__ = [
    "Credentials",
    "ObjectInfo",
    "Objects",
    "StoreError",
    "StoreSettings",
    "StoreUnreachable",
    "Version",
]

PART_BYTES = 16 * 2**20  # of a multipart upload and of a ranged read
DELETE_BATCH = 1000  # the largest S3 allows
FROM_PLATFORM = Credentials()


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One listed object; `path` is relative to the store's prefix, `modified` is the server's time."""

    path: str
    size: int
    modified: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """An object's state for a conditional put: its tag and its age by the server's clock."""

    etag: str
    size: int
    age_s: float


class Objects:
    """The bucket. Paths are relative to the settings' prefix, with no leading slash.

    Every method raises StoreError or StoreUnreachable, which name the URI and the remedy, where the store
    does not serve. May be used from several threads; a forked child must build its own.
    """

    def __init__(self, settings: StoreSettings, credentials: Credentials = FROM_PLATFORM) -> None:
        self.settings = settings
        self._client = Client(settings, credentials)

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> "Objects":
        """The store that `env` names, with its credentials."""
        return cls(StoreSettings.from_environment(env), Credentials.from_environment(env))

    def uri(self, path: str) -> str:
        """The s3:// address of a path."""
        return self._client.uri(path)

    def put(self, path: str, data: bytes) -> None:
        """Write an object whole, replacing what is there."""
        self._client.call("put_object", path, Body=data)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write an object if none is there; of racing writers of different bytes exactly one gets True.

        A writer whose request was repeated after a lost answer finds its own bytes there: also True.
        """
        return self._put_conditionally(path, data, IfNoneMatch="*")

    def put_if_match(self, path: str, data: bytes, etag: str) -> bool:
        """Replace the object if it is still the version `etag`; True also where it already holds `data`."""
        return self._put_conditionally(path, data, IfMatch=etag)

    def get(self, path: str) -> bytes:
        """The bytes of an object; FileNotFoundError names its URI."""
        return self._client.read(path)

    def get_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        """The bytes of many small objects, fetched at once; absent ones are left out."""
        return self._client.read_many(list(paths))

    def chunks(self, path: str, size: int) -> Iterator[bytes]:
        """The bytes of an object of `size` bytes, in pieces of bounded size."""
        if size <= PART_BYTES:
            yield self.get(path)
            return
        for start in range(0, size, PART_BYTES):
            yield self._client.read(path, start, min(start + PART_BYTES, size))

    @contextmanager
    def writer(self, path: str) -> Iterator["Writer"]:
        """A streaming write: the object appears when the block ends well; on any error nothing is left."""
        stream = Writer(self._client, path)
        try:
            yield stream
            stream.close()
        except BaseException:
            stream.abort()
            raise

    def version(self, path: str) -> Version:
        """An object's tag, size and age; FileNotFoundError names its URI."""
        head = self._client.call("head_object", path)
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        return Version(head["ETag"], int(head["ContentLength"]), (now - head["LastModified"]).total_seconds())

    def exists(self, path: str) -> bool:
        """Whether an object is there."""
        try:
            self._client.call("head_object", path)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Every object whose path begins with `prefix`, by path."""
        cut = len(self._client.key(""))
        found: list[ObjectInfo] = []
        token: dict[str, str] = {}
        while True:
            page = self._client.call("list_objects_v2", None, Prefix=self._client.key(prefix), **token)
            for item in page.get("Contents", []):
                found.append(ObjectInfo(item["Key"][cut:], int(item["Size"]), item["LastModified"]))
            if not page.get("IsTruncated"):
                return found
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; absent ones are no error, a refused one is."""
        for start in range(0, len(paths), DELETE_BATCH):
            batch = [{"Key": self._client.key(path)} for path in paths[start : start + DELETE_BATCH]]
            answer = self._client.call("delete_objects", None, Delete={"Objects": batch, "Quiet": True})
            for problem in answer.get("Errors", []):
                where = f"s3://{self.settings.bucket}/{problem['Key']}"
                raise StoreError(f"{where}: not deleted ({problem['Message']}); check what the key may do")

    def multiparts(self, prefix: str, older_than_s: float) -> Sequence[tuple[str, str]]:
        """Path and upload id of every unfinished multipart upload under `prefix` that began longer ago."""
        cut = len(self._client.key(""))
        found = []
        marker: dict[str, str] = {}
        while True:
            page = self._client.call(
                "list_multipart_uploads", None, Prefix=self._client.key(prefix), **marker
            )
            for upload in page.get("Uploads", []):
                if (datetime.now(UTC) - upload["Initiated"]).total_seconds() >= older_than_s:
                    found.append((upload["Key"][cut:], upload["UploadId"]))
            if not page.get("IsTruncated"):
                return found
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def abort_multiparts(self, prefix: str, older_than_s: float) -> int:
        """End unfinished multipart uploads under `prefix` that began longer ago; returns how many."""
        found = self.multiparts(prefix, older_than_s)
        for path, upload_id in found:
            self._client.call("abort_multipart_upload", path, UploadId=upload_id)
        return len(found)

    def check(self, *, writes: bool = False) -> None:
        """StoreError where the endpoint, the credentials or the bucket do not serve; it says what to do.

        On loopback (the embedded store) a missing bucket is created. With `writes` a small object is put and
        deleted too: not for what only reads, and not for `k15 gc`, which must run on a full disk.
        """
        try:
            self._client.call("list_objects_v2", None, Prefix=self._client.key(""), MaxKeys=1)
        except FileNotFoundError:
            if urlsplit(self.settings.endpoint).hostname not in LOOPBACK:
                raise StoreError(
                    f"{self.settings.root}: no such bucket at {self.settings.endpoint};"
                    " create it, or set K15_S3_BUCKET to one that exists"
                ) from None
            self._client.call("create_bucket", None)
        if writes:
            self._check_writes()

    def _check_writes(self) -> None:
        """Readers' credentials and full disks refuse here, and so does a server without conditional puts."""
        path = f"attempts/probe/{uuid4()}/probe"  # where `k15 gc` finds that of a killed process
        self.put_if_absent(path, b"1")
        conditional = not self.put_if_absent(path, b"2") and not self.put_if_match(path, b"3", '"0"')
        self.delete([path])
        if not conditional:
            raise StoreError(
                f"{self.uri(path)} at {self.settings.endpoint}: replaced in spite of a condition,"
                " but commits and leases need If-None-Match and If-Match; use a server that honours them"
            )

    def _put_conditionally(self, path: str, data: bytes, **condition: str) -> bool:
        try:
            self._client.call("put_object", path, Body=data, **condition)
        except PreconditionFailed:
            try:
                return self.get(path) == data
            except FileNotFoundError:
                return False
        return True


class Writer:
    """A streaming write with its SHA-256 and size; use it through `Objects.writer`."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._path = path
        self._buffer = bytearray()
        self._hash = hashlib.sha256()
        self._upload_id = ""
        self._parts: list[dict[str, Any]] = []
        self.size = 0

    @property
    def sha256(self) -> str:
        """Of all bytes written so far."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        """Add bytes; whole parts leave at once, so memory stays bounded."""
        self._hash.update(data)
        self.size += len(data)
        self._buffer += data
        while len(self._buffer) >= PART_BYTES:
            self._send(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]
        return len(data)

    def close(self) -> None:
        """Make the object appear."""
        if not self._upload_id:
            self._client.call("put_object", self._path, Body=bytes(self._buffer))
            return
        if self._buffer:
            self._send(bytes(self._buffer))
        self._call("complete_multipart_upload", MultipartUpload={"Parts": self._parts})

    def abort(self) -> None:
        """Leave nothing of a multipart upload behind."""
        if self._upload_id:
            self._call("abort_multipart_upload")

    def _send(self, data: bytes) -> None:
        if not self._upload_id:
            self._upload_id = self._client.call("create_multipart_upload", self._path)["UploadId"]
        number = len(self._parts) + 1
        answer = self._call("upload_part", PartNumber=number, Body=data)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})

    def _call(self, method: str, **arguments: Any) -> Any:
        return self._client.call(method, self._path, UploadId=self._upload_id, **arguments)
