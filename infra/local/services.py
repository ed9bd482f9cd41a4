"""The three services: how each is started and when it is healthy."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from k15.store.local import BUCKET, credentials, home

# S3 gateway, master, volume, filer and admin, each with a gRPC twin.
S3_OFFSETS = tuple(offset + twin for twin in (0, 10_000) for offset in range(5))


@dataclass(frozen=True)
class Definition:
    """How to run one service on a port. `ready` asks it once, quickly."""

    offsets: tuple[int, ...]  # of the ports it listens on, from its own
    command: Callable[[Path, int], list[str]]
    environment: Callable[[Path, int], dict[str, str]]
    ready: Callable[[int], bool]
    url: Callable[[int], str]


def fetch(url: str, body: object = None, *, timeout_s: float = 2.0) -> tuple[int, bytes]:
    """Status and body of a request (POST of JSON where a body is given); status 0 where nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (urllib.error.URLError, OSError):
        return 0, b""


def _binary(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _s3_command(root: Path, port: int) -> list[str]:
    return [
        _binary("weed"),
        "mini",
        f"-dir={home(root) / 'store'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.port={port}",
        f"-master.port={port + 1}",
        f"-volume.port={port + 2}",
        f"-filer.port={port + 3}",
        f"-admin.port={port + 4}",
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.allowDeleteBucketNotEmpty=false",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024",
        f"-bucket={BUCKET}",
    ]


def _s3_environment(root: Path, _port: int) -> dict[str, str]:
    keys = credentials(root)
    return {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "GOMEMLIMIT": "768MiB",
    }


def _s3_ready(port: int) -> bool:
    # The gateway answers before its filer and master do: all three, or the first write fails.
    bucket, _ = fetch(f"http://127.0.0.1:{port}/{BUCKET}")
    filer, _ = fetch(f"http://127.0.0.1:{port + 3}/buckets/{BUCKET}/?limit=1")
    _, volumes = fetch(f"http://127.0.0.1:{port + 1}/dir/assign?collection={BUCKET}")
    return bucket in (200, 403) and filer == 200 and b'"fid"' in volumes


def _prefect_command(_root: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]


def _prefect_environment(root: Path, port: int) -> dict[str, str]:
    folder = home(root) / "prefect"
    folder.mkdir(exist_ok=True)
    return {
        "PREFECT_HOME": str(folder),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder / 'prefect.db'}",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def _prefect_ready(port: int) -> bool:
    return fetch(f"http://127.0.0.1:{port}/api/health")[0] == 200


def _mlflow_command(root: Path, port: int) -> list[str]:
    folder = home(root) / "mlflow"
    folder.mkdir(exist_ok=True)
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]


def _mlflow_environment(_root: Path, _port: int) -> dict[str, str]:
    return {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "1",
    }


def _mlflow_ready(port: int) -> bool:
    return fetch(f"http://127.0.0.1:{port}/health")[0] == 200


def _root_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


SERVICES: dict[str, Definition] = {
    "s3": Definition(S3_OFFSETS, _s3_command, _s3_environment, _s3_ready, _root_url),
    "prefect": Definition((0,), _prefect_command, _prefect_environment, _prefect_ready, _root_url),
    "mlflow": Definition((0,), _mlflow_command, _mlflow_environment, _mlflow_ready, _root_url),
}
