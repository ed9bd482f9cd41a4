"""Where the store is, with which credentials, and what goes wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from k15.config import Config


class StoreError(ValueError):
    """The store cannot be used as asked; the message names the URI or endpoint and the remedy."""


class StoreUnreachable(StoreError):
    """The endpoint does not answer, or answers that it cannot serve now."""


class StoreSettings(Config):
    """Where the store is. Credentials are never part of it."""

    endpoint: str
    bucket: str
    prefix: str = ""
    region: str = "us-east-1"

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Self:
        """Settings from K15_S3_ENDPOINT, K15_S3_BUCKET, K15_S3_PREFIX and AWS_REGION."""
        endpoint = env.get("K15_S3_ENDPOINT", "").rstrip("/")
        if urlsplit(endpoint).scheme not in ("http", "https"):
            raise StoreError(
                f"K15_S3_ENDPOINT={endpoint!r}: not an http(s) address; run `make up` for the local store,"
                " or set it to your S3 endpoint (for example https://s3.eu-west-1.amazonaws.com)"
            )
        return cls(
            endpoint=endpoint,
            bucket=env.get("K15_S3_BUCKET") or "k15",
            prefix=env.get("K15_S3_PREFIX", "").strip("/"),
            region=env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1",
        )

    @property
    def root(self) -> str:
        """s3://bucket or s3://bucket/prefix."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Credentials:
    """An S3 key pair; absent fields leave the choice to the platform's own credential chain."""

    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> "Credentials":
        """The usual AWS variables of `env`, or the files that AWS_…_FILE name."""
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        return cls(*(secret(env, name) or None for name in names))


def secret(env: Mapping[str, str], name: str) -> str:
    """A secret: the variable `name`, else the content of the file that `name`_FILE names, else ""."""
    path = env.get(f"{name}_FILE", "")
    if env.get(name) or not path:
        return env.get(name, "")
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise StoreError(f"{name}_FILE={path}: {error.strerror}; it must be a file this user reads") from None
