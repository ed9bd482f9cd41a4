"""Bring the stack up, take it down, tell how it is."""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infra.local import process
from infra.local.automation import ensure_crash_automation
from infra.local.services import SERVICES
from k15.store.local import OWN_VARIABLE, Service, State, home, read_state, write_state

START_LIMIT_S = 180.0
PORT_PATIENCE_S = 5.0  # for the ports a service had before: whoever uses them should not have to learn others
MAX_PORT = 65_535


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """One `up` or `down` at a time."""
    home(root).mkdir(mode=0o700, exist_ok=True)
    with (home(root) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(root: Path, own: Mapping[str, str]) -> None:
    """Every service the user has not named in `own` is healthy on return; what already was is left alone."""
    began = time.monotonic()
    with exclusive(root):
        wanted = [name for name in SERVICES if not own.get(OWN_VARIABLE[name])]
        fresh = [name for name in wanted if _ensure_started(root, name, own)]
        _wait(root, wanted, fresh, own, began)
        if "prefect" in wanted:
            ensure_crash_automation(f"{_url(root, 'prefect')}/api")
    if fresh:
        print(f"services: started {', '.join(fresh)} in {time.monotonic() - began:.1f} s", flush=True)
    for name in SERVICES:
        print(f"services: {name:8} {_url(root, name) if name in wanted else own[OWN_VARIABLE[name]]}")


def down(root: Path) -> None:
    """No process of the stack is left on return; data and ports are kept."""
    with exclusive(root):
        services = read_state(root).services
        for service in services.values():
            process.end(service.pid, service.started)
        stopped = {
            name: service.model_copy(update={"pid": 0, "started": 0}) for name, service in services.items()
        }
        write_state(root, State(services=stopped))


def status(root: Path) -> dict[str, dict[str, object]]:
    """For each service that was ever started: its URL, pid and whether it is healthy."""
    return {
        name: {
            "url": SERVICES[name].url(service.port),
            "pid": service.pid,
            "healthy": process.is_alive(service.pid, service.started) and SERVICES[name].ready(service.port),
        }
        for name, service in read_state(root).services.items()
    }


def _url(root: Path, name: str) -> str:
    return SERVICES[name].url(read_state(root).services[name].port)


def _ensure_started(root: Path, name: str, own: Mapping[str, str]) -> bool:
    """Whether the service had to be started; then it is recorded, not yet healthy."""
    services = dict(read_state(root).services)
    old = services.get(name, Service(port=0))
    if process.is_alive(old.pid, old.started):
        return False
    process.end(old.pid, old.started)  # children that outlived their leader
    definition = SERVICES[name]
    port = _port(name, old.port, own)
    environment = {**own, **definition.environment(root, port)}
    log = home(root) / "logs" / f"{name}.log"
    pid, started = process.start(definition.command(root, port), environment, log)
    services[name] = Service(port=port, pid=pid, started=started)
    write_state(root, State(services=services))
    return True


def _port(name: str, old: int, own: Mapping[str, str]) -> int:
    """The user's port if K15_<NAME>_PORT asks for one, else the last one while it is free, else a new one.

    Free is a port with all its offsets.
    """
    offsets = SERVICES[name].offsets
    variable = f"K15_{name.upper()}_PORT"
    if asked := own.get(variable):
        highest = MAX_PORT - max(offsets)
        if not asked.isdecimal() or not 1 <= int(asked) <= highest:
            raise ValueError(f"{variable}={asked}: not a port from 1 to {highest}; choose another")
        if busy := process.busy_ports(int(asked), offsets):
            text = ", ".join(str(port) for port in busy)
            raise ValueError(
                f"{variable}={asked}: port {text} is busy; end what listens there or choose another"
            )
        return int(asked)
    if old and process.become_free(old, offsets, patience_s=PORT_PATIENCE_S):
        return old
    return process.free_port(offsets)


def _wait(root: Path, names: list[str], fresh: list[str], own: Mapping[str, str], began: float) -> None:
    """Until every one is healthy; ValueError shows the log of one that died or took too long.

    One that is not `fresh` may be on its way out, killed a moment ago: it is started, and `fresh` then.
    """
    waiting = set(names)
    while waiting:
        for name in sorted(waiting):
            service = read_state(root).services[name]
            if SERVICES[name].ready(service.port):
                waiting.discard(name)
            elif not process.is_alive(service.pid, service.started):
                if name not in fresh and _ensure_started(root, name, own):
                    fresh.append(name)
                    continue
                raise ValueError(f"{name} ended while starting:\n{_last_lines(root, name)}")
        if waiting and time.monotonic() - began > START_LIMIT_S:
            name = sorted(waiting)[0]
            raise ValueError(
                f"{name} did not answer within {START_LIMIT_S:.0f} s:\n{_last_lines(root, name)}"
            )
        if waiting:
            time.sleep(0.1)


def _last_lines(root: Path, name: str) -> str:
    log = home(root) / "logs" / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return (
        "\n".join(lines) + f"\n(whole log: {os.path.relpath(log)}; `make down` then `make up` starts afresh)"
    )
