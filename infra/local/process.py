"""Sessions of processes that outlive the shell, and free ports. Linux: reads /proc."""

import os
import random
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PORTS = range(12_000, 22_000)  # with SeaweedFS's 10,000 above still below the range of outgoing connections


def start(command: list[str], environment: Mapping[str, str], log: Path) -> tuple[int, int]:
    """Start a session of its own, output appended to `log`; its leader's pid and start time.

    `command` begins with an absolute path. Nobody waits for the process: it outlives this one.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    appended = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), appended, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    pid = os.posix_spawn(command[0], command, dict(environment), file_actions=files, setsid=True)
    return pid, start_time(pid)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the name, from the state on; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of a process; 0 where it is gone or a zombie."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] != "Z" else 0


def is_alive(pid: int, started: int) -> bool:
    """Whether `pid` still is the process that started then."""
    return pid > 0 and started > 0 and start_time(pid) == started


def members(session: int) -> list[int]:
    """Live processes of a session."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    found = [(pid, _stat(pid)) for pid in pids]
    return [pid for pid, fields in found if fields and fields[3] == str(session) and fields[0] != "Z"]


def end(pid: int, started: int, *, grace_s: float = 10.0) -> None:
    """End every process of the session led by `pid`, whose leader may be dead: SIGTERM, then SIGKILL."""
    if pid <= 0 or start_time(pid) not in (0, started):
        return  # the pid belongs to somebody else by now
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience_s
        for member in members(pid):
            _signal(member, number)
        while members(pid) and time.monotonic() < deadline:
            time.sleep(0.05)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def busy_ports(first: int, offsets: Sequence[int]) -> list[int]:
    """Those of `first` + each offset on which no server could listen."""
    return [first + offset for offset in offsets if not is_free(first + offset)]


def become_free(first: int, offsets: Sequence[int], *, patience_s: float) -> bool:
    """Whether a server could listen on all of them, now or soon.

    A process of many threads is dead for /proc before the last of them has given its sockets back.
    """
    deadline = time.monotonic() + patience_s
    while busy_ports(first, offsets):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def free_port(offsets: Sequence[int]) -> int:
    """A first port, free with all its offsets."""
    for _ in range(200):
        first = random.choice(PORTS)
        if not busy_ports(first, offsets):
            return first
    raise ValueError(f"no {len(offsets)} free ports from {PORTS.start}-{PORTS.stop} on: end some servers")
