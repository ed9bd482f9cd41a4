"""What a stage in a container is given of the outside: variables, secrets as files, endpoints as sockets."""

import ipaddress
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from k15.store.relay import Relay
from k15.store.settings import secret

ENDPOINTS = ("K15_S3_ENDPOINT", "MLFLOW_TRACKING_URI")
SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
PLAIN = (
    *ENDPOINTS,
    "K15_S3_BUCKET",
    "K15_S3_PREFIX",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "DO_NOT_TRACK",
    "MLFLOW_DISABLE_TELEMETRY",
)
INSIDE = Path("/run/k15")  # where a container sees the folder
MEMORY = Path("/dev/shm")  # secrets never reach a disk


@dataclass(frozen=True)
class Endpoint:
    """An address a stage may reach: `host`:`port`, seen by the stage on `loopback`:`port`."""

    host: str
    port: int
    loopback: str

    @property
    def is_name(self) -> bool:
        """Whether the stage's hosts file must point `host` at `loopback`."""
        return self.host != self.loopback


def endpoints(environment: Mapping[str, str]) -> list[Endpoint]:
    """Those that `environment` names, each host on a loopback address of its own.

    ValueError for an address that is neither a name nor this machine's loopback: it cannot be pointed there.
    """
    found: dict[tuple[str, int], Endpoint] = {}
    hosts: dict[str, str] = {}
    for variable in ENDPOINTS:
        url = urlsplit(environment.get(variable, ""))
        if url.scheme not in ("http", "https") or not url.hostname:
            continue
        port = url.port or (443 if url.scheme == "https" else 80)
        loopback = hosts.setdefault(url.hostname, _loopback(url.hostname, len(hosts), variable))
        found[url.hostname, port] = Endpoint(url.hostname, port, loopback)
    return list(found.values())


def _loopback(host: str, index: int, variable: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1" if host == "localhost" else f"127.0.1.{index + 1}"
    if address.is_loopback and address.version == 4:
        return host
    raise ValueError(
        f"{variable}: a container reaches {host} by a name only; give it one (DNS or /etc/hosts) and use that"
    )


class Enclosure:
    """One container's folder, in memory: `secrets/NAME` and `endpoints/ADDRESS:PORT`; gone when closed."""

    def __init__(self, name: str, environment: Mapping[str, str], owner: int) -> None:
        self._environment = environment
        self.endpoints = endpoints(environment)
        self.folder = folder(name)
        self.folder.mkdir(mode=0o700)
        for part in ("secrets", "endpoints"):
            (self.folder / part).mkdir(mode=0o700)
        self._secrets = [variable for variable in SECRETS if secret(environment, variable)]
        for variable in self._secrets:
            path = self.folder / "secrets" / variable
            path.touch(mode=0o600)
            path.write_text(secret(environment, variable))
        self._relay = Relay(
            {
                self.folder / "endpoints" / f"{point.loopback}:{point.port}": (point.host, point.port)
                for point in self.endpoints
            }
        )
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, owner, owner)

    @property
    def variables(self) -> dict[str, str]:
        """The container's environment: nothing secret, where secrets are, and that the launcher lives."""
        plain = {name: self._environment[name] for name in PLAIN if self._environment.get(name)}
        files = {f"{name}_FILE": str(INSIDE / "secrets" / name) for name in self._secrets}
        return {**plain, **files, "K15_WATCH_STDIN": "1"}

    @property
    def hosts(self) -> dict[str, str]:
        """Lines of the container's hosts file, name to address."""
        return {point.host: point.loopback for point in self.endpoints if point.is_name}

    def close(self) -> None:
        """Nothing passes any more, and the folder is gone."""
        self._relay.close()
        remove(self.folder)


def folder(name: str) -> Path:
    """Where the enclosure of the container `name` lies."""
    return (MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())) / name


def remove(path: Path) -> None:
    """Remove an enclosure that nobody uses any more."""
    shutil.rmtree(path, ignore_errors=True)
