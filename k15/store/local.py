"""The local services a checkout runs for itself: where they are recorded and how to reach them.

`.k15/state.json` holds ports and process ids, `.k15/credentials` (mode 0600) the generated S3 keys.
What a user has set in the environment always wins: that service is then theirs, not the local one.
"""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from k15.config import Config

BUCKET = "k15"
OWN_VARIABLE = {"s3": "K15_S3_ENDPOINT", "prefect": "PREFECT_API_URL", "mlflow": "MLFLOW_TRACKING_URI"}
ALL = tuple(OWN_VARIABLE)


class Service(Config):
    """One local service: `pid` leads its session, `started` (ticks since boot) tells it from a reused pid."""

    port: int
    pid: int = 0
    started: int = 0


class State(Config):
    """What runs (or last ran) here, by name of the service."""

    services: dict[str, Service] = {}


class Credentials(Config):
    """The embedded S3 server's only keys."""

    access_key: str
    secret_key: str


def home(root: Path) -> Path:
    """The folder of a checkout's local services and their data."""
    return root / ".k15"


def read_state(root: Path) -> State:
    """The recorded services, none where nothing was started; ValueError where the file is damaged."""
    path = home(root) / "state.json"
    if not path.is_file():
        return State()
    try:
        return State.model_validate_json(path.read_text())
    except ValidationError:
        raise ValueError(f"{path}: damaged; run `make down`, remove the file, then `make up`") from None


def write_state(root: Path, state: State) -> None:
    """Replace the record atomically."""
    path = home(root) / "state.json"
    partial = path.with_suffix(".partial")
    partial.write_text(state.model_dump_json(indent=1) + "\n")
    partial.replace(path)


def credentials(root: Path) -> Credentials:
    """The generated keys, made on the first call; readable by the owner only."""
    path = home(root) / "credentials"
    if not path.is_file():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        made = Credentials(access_key=f"k15-{secrets.token_hex(8)}", secret_key=secrets.token_urlsafe(30))
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(made.model_dump_json() + "\n")
    return Credentials.parse(json.loads(path.read_text()), where=str(path))


def environment(root: Path, own: Mapping[str, str], needed: Sequence[str] = ALL) -> dict[str, str]:
    """The variables that reach those `needed` of this checkout's services that `own` does not name.

    Merge it over `own`. ValueError where one of them is neither named in `own` nor was ever started.
    """
    services = read_state(root).services
    values = {
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    }
    for name in needed:
        variable = OWN_VARIABLE[name]
        if own.get(variable):
            continue
        if name not in services:
            raise ValueError(f"no local {name} service is up: run `make up`, or set {variable} to your own")
        values |= _reach(root, name, services[name].port)
    return values


def _reach(root: Path, name: str, port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    if name == "prefect":
        return {"PREFECT_API_URL": f"{url}/api", "PREFECT_HOME": str(home(root) / "prefect")}
    if name == "mlflow":
        return {"MLFLOW_TRACKING_URI": url}
    keys = credentials(root)
    return {
        "K15_S3_ENDPOINT": url,
        "K15_S3_BUCKET": BUCKET,
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": "",  # one of the user's belongs to the user's keys
    }
