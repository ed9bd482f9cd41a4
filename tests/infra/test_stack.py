"""The local stack: idempotent, mends what died on the same port and data, leaves nothing behind."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local import process
from infra.local.services import SERVICES
from k15.store.artifact import Store
from k15.store.local import State, environment, read_state, write_state

ROOT = Path(__file__).parents[2]
OTHERS = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


def local(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.local", *arguments, "--root", str(root)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


@contextmanager
def listening(port: int) -> Iterator[None]:
    """Somebody else's server."""
    with socket.create_server(("127.0.0.1", port)):
        yield


@pytest.mark.services
def test_up_again_starts_nothing(stack_root: Path) -> None:
    before = read_state(stack_root)
    done = local(stack_root, "up")
    assert done.returncode == 0 and "started" not in done.stdout
    assert read_state(stack_root) == before


@pytest.mark.services
def test_a_killed_s3_server_comes_back_with_its_port_and_data(stack_root: Path) -> None:
    store = Store.from_environment(environment(stack_root, {}))
    store.objects.put("infra/kept", b"bytes")
    before = read_state(stack_root).services
    os.kill(before["s3"].pid, signal.SIGKILL)
    done = local(stack_root, "up")
    assert done.returncode == 0 and "started s3" in done.stdout, done.stdout + done.stderr
    after = read_state(stack_root).services
    assert after["s3"].port == before["s3"].port and after["s3"].pid != before["s3"].pid
    assert (after["prefect"], after["mlflow"]) == (before["prefect"], before["mlflow"])
    assert Store.from_environment(environment(stack_root, {})).objects.get("infra/kept") == b"bytes"


@pytest.mark.services
def test_a_server_that_is_dying_when_it_is_looked_at_comes_back_too(stack_root: Path) -> None:
    """SIGKILL takes its time where a disk is busy: such a process lives, serves nothing, and is soon gone."""
    before = read_state(stack_root).services
    process.end(before["s3"].pid, before["s3"].started)
    pid, started = process.start(["/bin/sleep", "3"], {}, stack_root / "sleep.log")
    dying = before["s3"].model_copy(update={"pid": pid, "started": started})
    write_state(stack_root, State(services={**before, "s3": dying}))
    done = local(stack_root, "up")
    assert done.returncode == 0 and "started s3" in done.stdout, done.stdout + done.stderr
    after = read_state(stack_root).services["s3"]
    assert after.port == before["s3"].port and after.pid != pid


@pytest.mark.services
def test_status_says_what_is_healthy(stack_root: Path) -> None:
    rows = json.loads(local(stack_root, "status", "--json").stdout)
    assert {name: row["healthy"] for name, row in rows.items()} == {
        "s3": True,
        "prefect": True,
        "mlflow": True,
    }


@pytest.mark.services
def test_keys_are_the_owners_only_and_every_port_is_on_loopback(stack_root: Path) -> None:
    assert stat.S_IMODE((stack_root / ".k15" / "credentials").stat().st_mode) == 0o600
    assert stat.S_IMODE((stack_root / ".k15").stat().st_mode) == 0o700
    pids = {
        str(pid)
        for service in read_state(stack_root).services.values()
        for pid in process.members(service.pid)
    }
    listening = [
        line for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    inodes = {line.split()[9]: line.split()[1].partition(":")[0] for line in listening}
    hosts = {inodes[inode] for pid in pids for inode in sockets(pid) if inode in inodes}
    assert hosts == {"0100007F"}


def sockets(pid: str) -> list[str]:
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    return [link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")]


@pytest.mark.services
def test_a_users_own_services_win(tmp_path: Path) -> None:
    own = {
        "K15_S3_ENDPOINT": "http://127.0.0.1:9",
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    }
    done = local(tmp_path, "up", **own)
    assert done.returncode == 0, done.stderr
    assert read_state(tmp_path).services == {}
    assert environment(tmp_path, own).keys().isdisjoint(own)


@pytest.mark.services
def test_a_session_token_of_the_users_own_keys_does_not_reach_the_local_store(stack_root: Path) -> None:
    own = {"AWS_ACCESS_KEY_ID": "theirs", "AWS_SECRET_ACCESS_KEY": "theirs", "AWS_SESSION_TOKEN": "theirs"}
    store = Store.from_environment({**own, **environment(stack_root, own)})
    store.objects.put("probe", b"theirs")
    assert store.objects.get("probe") == b"theirs"


def test_a_busy_port_is_refused_by_name(tmp_path: Path, stack_root: Path) -> None:
    port = read_state(stack_root).services["s3"].port
    done = local(tmp_path, "up", K15_S3_PORT=str(port), **OTHERS)
    assert done.returncode == 2
    assert f"K15_S3_PORT={port}" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("offset", [3, 10_001])
def test_a_busy_neighbour_of_the_port_is_refused_by_name(tmp_path: Path, offset: int) -> None:
    port = process.free_port(SERVICES["s3"].offsets)
    with listening(port + offset):
        done = local(tmp_path, "up", K15_S3_PORT=str(port), **OTHERS)
    assert done.returncode == 2
    assert f"K15_S3_PORT={port}: port {port + offset} is busy" in done.stderr
    assert read_state(tmp_path).services == {}


@pytest.mark.parametrize("asked", ["99999", "60000", "0", "x"])
def test_a_port_out_of_range_is_refused(tmp_path: Path, asked: str) -> None:
    done = local(tmp_path, "up", K15_S3_PORT=asked, **OTHERS)
    assert done.returncode == 2
    assert f"K15_S3_PORT={asked}: not a port from 1 to 55531" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.services
def test_the_store_moves_with_its_data_where_a_neighbour_of_its_port_is_taken(tmp_path: Path) -> None:
    def up() -> int:
        done = local(tmp_path, "up", **OTHERS)
        assert done.returncode == 0, done.stdout + done.stderr
        return read_state(tmp_path).services["s3"].port

    def store() -> Store:
        return Store.from_environment(OTHERS | environment(tmp_path, OTHERS))

    try:
        port = up()
        store().objects.put("infra/kept", b"bytes")
        local(tmp_path, "down")
        with listening(port + 2):
            assert up() != port
        assert store().objects.get("infra/kept") == b"bytes"
        store().objects.put("infra/more", b"bytes")
    finally:
        local(tmp_path, "down")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".k15").mkdir()
    (tmp_path / ".k15" / "state.partial").symlink_to("/dev/full")
    done = local(tmp_path, "down")
    assert done.returncode == 2
    assert (
        done.stderr
        == f"services: {tmp_path}/.k15: No space left on device; free some disk, then run this again\n"
    )


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".k15").touch()
    done = local(tmp_path, "up")
    assert done.returncode == 2
    assert done.stderr.startswith(f"services: {tmp_path}/.k15: File exists; see that it is yours to write")
    assert len(done.stderr.splitlines()) == 1


def test_services_that_were_never_started_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make up"):
        environment(tmp_path, {})


def test_a_session_ends_with_all_its_processes(tmp_path: Path) -> None:
    script = "sh -c 'trap \"\" TERM; sleep 600' & sleep 600"
    pid, started = process.start(["/bin/sh", "-c", script], dict(os.environ), tmp_path / "log")
    deadline = time.monotonic() + 10
    while len(process.members(pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    process.end(pid, started, grace_s=0.3)
    assert process.members(pid) == []


def test_a_port_that_a_dying_process_still_holds_is_waited_for() -> None:
    """SIGKILL of a server of many threads: it is dead for /proc before its sockets are closed."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert not process.become_free(port, [0], patience_s=0.3)
        threading.Timer(0.5, held.close).start()
        assert process.become_free(port, [0], patience_s=10.0)
