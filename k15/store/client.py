"""Calls to one bucket of an S3 endpoint, with plain errors: what was asked of which URI, and the remedy."""

import asyncio
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import s3fs
from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError

from k15.store.settings import Credentials, StoreError, StoreSettings, StoreUnreachable

LOOPBACK = ("127.0.0.1", "localhost", "::1")
WRITES = ("put_object", "upload_part", "create_multipart_upload", "complete_multipart_upload")
PRECONDITIONS = ("PreconditionFailed", "412", "ConditionalRequestConflict")
SMALL_FILES_AT_ONCE = 16


class PreconditionFailed(Exception):
    """A conditional request found another state."""


class FileSystem(s3fs.S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs, whose sessions end on the event loop they began on.

    s3fs ends one on any loop that runs where the file system is collected, as Prefect's may, and fails.
    """

    @staticmethod
    def close_session(loop: asyncio.AbstractEventLoop | None, s3: Any) -> None:
        """End a session; called once its file system is collected, in any thread."""
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is None or here is loop or loop is None or not loop.is_running():
            s3fs.S3FileSystem.close_session(loop, s3)
        else:
            asyncio.run_coroutine_threadsafe(s3.__aexit__(None, None, None), loop)


class Client:
    """The bucket. Paths are relative to the settings' prefix, with no leading slash.

    May be used from several threads; a forked child must build its own.
    """

    def __init__(self, settings: StoreSettings, credentials: Credentials) -> None:
        self.settings = settings
        own_endpoint = not (urlsplit(settings.endpoint).hostname or "").endswith("amazonaws.com")
        self._fs = FileSystem(
            endpoint_url=settings.endpoint,
            key=credentials.access_key,
            secret=credentials.secret_key,
            token=credentials.session_token,
            use_listings_cache=False,
            skip_instance_cache=True,
            client_kwargs={"region_name": settings.region},
            config_kwargs={
                "s3": {"addressing_style": "path" if own_endpoint else "auto"},
                "retries": {"max_attempts": 3, "mode": "standard"},
                "connect_timeout": 5,
                "read_timeout": 60,
            },
        )

    def uri(self, path: str) -> str:
        """The s3:// address of a path."""
        return f"{self.settings.root}/{path}"

    def key(self, path: str) -> str:
        """The object's key in the bucket."""
        return f"{self.settings.prefix}/{path}" if self.settings.prefix else path

    def call(self, method: str, path: str | None, **arguments: Any) -> Any:
        """One S3 request, on an object or (path None) on the bucket.

        FileNotFoundError, PreconditionFailed, StoreUnreachable or StoreError say what went wrong.
        """
        key = {} if path is None else {"Key": self.key(path)}
        with self._explained(path or "", writes=method in WRITES):
            return self._fs.call_s3(method, Bucket=self.settings.bucket, **key, **arguments)

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of an object, or a range of them, in one request."""
        with self._explained(path):
            data: bytes = self._fs.cat_file(self._full(path), start=start, end=end, max_concurrency=1)
            return data

    def read_many(self, paths: list[str]) -> dict[str, bytes]:
        """The bytes of many small objects, fetched at once; absent ones are left out."""
        if not paths:
            return {}
        full = {self._full(path): path for path in paths}
        options = {"batch_size": SMALL_FILES_AT_ONCE, "max_concurrency": 1}
        with self._explained("(several objects)"):
            found = self._fs.cat(list(full), on_error="return", **options)
            for result in found.values():
                if isinstance(result, BaseException) and not isinstance(result, FileNotFoundError):
                    raise result
        return {full[path]: data for path, data in found.items() if isinstance(data, bytes)}

    def _full(self, path: str) -> str:
        return f"{self.settings.bucket}/{self.key(path)}"

    @contextmanager
    def _explained(self, path: str, *, writes: bool = False) -> Iterator[None]:
        where = f"{self.uri(path)} at {self.settings.endpoint}"
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(f"{where}: no such object") from None
        except PermissionError as error:
            raise StoreError(
                f"{where}: refused ({error}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                " and what they may do with this bucket"
            ) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreError(
                f"{where}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, both of them"
            ) from error
        except (BotoCoreError, TimeoutError, ConnectionError) as error:
            raise StoreUnreachable(
                f"{where}: no answer ({type(error).__name__}); check that K15_S3_ENDPOINT is right and the"
                " store runs (`make up` starts the local one)"
            ) from error
        except OSError as error:
            local = writes and urlsplit(self.settings.endpoint).hostname in LOOPBACK
            raise _classified(error, where, local_write=local) from error


def _classified(error: OSError, where: str, *, local_write: bool) -> Exception:
    response = getattr(error.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code", "")
    if isinstance(error, FileExistsError) or code in PRECONDITIONS:
        return PreconditionFailed(where)
    if error.errno == errno.EREMOTEIO and local_write:
        return StoreError(
            f"{where}: the local store cannot write; free disk space (`k15 gc` helps), then rerun"
        )
    if error.errno in (errno.EBUSY, errno.EREMOTEIO):
        return StoreUnreachable(f"{where}: the store failed ({error}); see its log and free disk, then rerun")
    return StoreError(f"{where}: {error} ({code or 'no code'}); check the endpoint, bucket and prefix")
