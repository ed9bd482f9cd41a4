"""The Docker launcher on a daemon of our own: walls, endpoints, secrets, memory, cancel, and nothing left."""

import gc
import io
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from flows.containers import LABEL, DockerLauncher, sweep
from flows.enclosure import SECRETS, endpoints, folder
from k15.recipes import Resources
from k15.store.lease import this_process
from tests.dockerd import IMAGE, ROOT, Daemon, missing
from tests.flows.driver import wait_for

pytestmark = [
    pytest.mark.control,
    pytest.mark.services,
    # Docker's SDK leaves sockets to the garbage collector where a daemon does not answer.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.skipif(bool(missing()), reason=missing() or "a daemon can be started"),
]
TOKEN = uuid4().hex


@pytest.fixture(autouse=True)
def swept_sockets() -> Iterator[None]:
    """What the SDK left is collected while its warnings are waved through, not in another test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """A port of this machine's loopback behind which somebody answers with a line."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"here\n")

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def launcher(docker_daemon: Daemon, server: int) -> DockerLauncher:
    return DockerLauncher.open(environment(docker_daemon, server), package="tests.flows.stages")


def environment(running: Daemon, port: int) -> dict[str, str]:
    return {
        "DOCKER_HOST": running.host,
        "K15_IMAGE": IMAGE,
        "K15_S3_ENDPOINT": f"http://127.0.0.1:{port}",
        "MLFLOW_TRACKING_URI": f"http://localhost:{port}",
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": TOKEN,
        "PREFECT_API_KEY": TOKEN,
        "UNRELATED_TOKEN": TOKEN,
    }


def ask(launcher: DockerLauncher, *questions: str, **resources: Any) -> tuple[int, list[str]]:
    execution = launcher.start("prober", ";".join(questions), Resources(memory_gb=0.25, **resources))
    lines = list(execution.lines())
    return execution.wait(), lines


def test_a_stage_reaches_its_endpoints_and_nothing_else(launcher: DockerLauncher, server: int) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:  # a service of this host that no job declares
        host = socket.gethostbyname(socket.gethostname())
        wanted = [f"connects=127.0.0.1:{server}", f"connects=localhost:{server}"]
        walls = [
            f"connects=127.0.0.1:{other.getsockname()[1]}",
            f"connects={host}:{other.getsockname()[1]}",
            "connects=8.8.8.8:53",
        ]
        code, lines = ask(launcher, *wanted, *walls, "interfaces")
        assert code == 0, lines
    assert [json.loads(line) for line in lines] == [True, True, False, False, False, ["lo"]]


def test_a_stage_has_no_rights_and_writes_to_scratch_alone(launcher: DockerLauncher) -> None:
    code, lines = ask(
        launcher, "writes=/app/x", "writes=/run/k15/x", "writes=/tmp/x", "status", "statvfs=/dev/shm"
    )
    assert code == 0, lines
    app, secrets, scratch, status, shared = [json.loads(line) for line in lines]
    assert (app, secrets, scratch) == (False, False, True)
    facts = dict(line.split(":", 1) for line in status.splitlines())
    assert {int(facts[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")} == {0}
    assert facts["NoNewPrivs"].strip() == "1"
    assert facts["Seccomp"].strip() == "2"
    assert 0 not in map(int, facts["Uid"].split())
    assert shared == 2**27


def test_secrets_are_files_and_nowhere_else(launcher: DockerLauncher) -> None:
    execution = launcher.start(
        "prober", "environment;reads=/run/k15/secrets/AWS_SECRET_ACCESS_KEY", Resources(memory_gb=0.25)
    )
    attributes = json.dumps(launcher.client.api.inspect_container(execution.id))
    lines = list(execution.lines())
    assert execution.wait() == 0, lines
    seen, read = [json.loads(line) for line in lines]
    assert read == TOKEN
    assert TOKEN not in attributes
    assert TOKEN not in json.dumps(seen)
    assert seen["AWS_SECRET_ACCESS_KEY_FILE"] == "/run/k15/secrets/AWS_SECRET_ACCESS_KEY"
    assert not {name for name in seen if name in SECRETS or name.startswith("PREFECT_")}


def test_what_is_over_leaves_nothing(launcher: DockerLauncher) -> None:
    execution = launcher.start("orphan", "s3://none", Resources(memory_gb=0.25))
    name = launcher.client.containers.get(execution.id).name
    assert folder(name).is_dir()
    list(execution.lines())
    assert execution.wait() == 3
    assert not folder(name).exists()
    assert launcher.client.containers.list(all=True) == []


def test_lines_come_as_they_are_printed(launcher: DockerLauncher) -> None:
    execution = launcher.start("sleeper", "s3://none", Resources(memory_gb=0.25))
    lines = execution.lines()
    assert next(lines) == "sleeps"  # it sleeps for ten minutes after that
    execution.cancel()
    assert execution.wait() == -signal.SIGTERM
    assert list(lines) == []


def test_cancel_ends_a_stage_that_does_not_listen(launcher: DockerLauncher) -> None:
    execution = launcher.start("prober", "deaf", Resources(memory_gb=0.25))
    assert next(execution.lines()) == "deaf"
    execution.cancel()
    assert execution.wait() == -signal.SIGKILL
    assert launcher.client.containers.list(all=True) == []


def test_a_stage_that_wants_more_memory_than_its_own_is_told_so(launcher: DockerLauncher) -> None:
    code, lines = ask(launcher, f"eats={2**29}")
    assert code == -signal.SIGKILL
    assert lines[-1].startswith("error: out of memory: the kernel ended the stage at its limit of 0.25 GB")


def test_the_death_of_the_launching_process_ends_the_stage_and_the_next_start_clears_up(
    docker_daemon: Daemon, launcher: DockerLauncher, server: int
) -> None:
    script = (
        "import json, os, signal, sys\n"
        "from flows.containers import DockerLauncher\n"
        "from k15.recipes import Resources\n"
        "launcher = DockerLauncher.open(json.loads(sys.argv[1]), 'tests.flows.stages')\n"
        "execution = launcher.start('sleeper', 's3://none', Resources(memory_gb=0.25))\n"
        "print(execution.id, next(execution.lines()), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, json.dumps(environment(docker_daemon, server))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    identity, said = done.stdout.split()
    assert said == "sleeps"
    container = launcher.client.containers.get(identity)

    def ended() -> bool:
        container.reload()
        return bool(container.status == "exited")

    wait_for(ended, "the end of the stage", timeout_s=10)
    assert folder(container.name).is_dir()
    assert sweep(launcher.client) == [container.name]
    assert launcher.client.containers.list(all=True) == []
    assert not folder(container.name).exists()


def test_containers_of_live_launchers_are_left_alone(launcher: DockerLauncher) -> None:
    made = launcher.client.containers.create(IMAGE, ["python"], labels={LABEL: this_process()})
    assert sweep(launcher.client) == []
    made.remove()


def test_a_daemon_that_restarts_costs_the_stage_that_ran_and_no_more(
    docker_daemon: Daemon, launcher: DockerLauncher
) -> None:
    execution = launcher.start("sleeper", "s3://none", Resources(memory_gb=0.25))
    lines = execution.lines()
    assert next(lines) == "sleeps"
    docker_daemon.kill()
    threading.Timer(1.0, docker_daemon.start).start()
    list(lines)
    assert execution.wait() != 0
    assert ask(launcher, "interfaces") == (0, ['["lo"]'])
    assert launcher.client.containers.list(all=True) == []


def test_what_is_missing_is_named_before_anything_starts(docker_daemon: Daemon, server: int) -> None:
    own = environment(docker_daemon, server)
    launcher = DockerLauncher.open(own)
    for changes, what in (
        ({"DOCKER_HOST": "unix:///nowhere/docker.sock"}, "no Docker daemon at unix:///nowhere"),
        ({"K15_IMAGE": "k15-engine:none"}, "image k15-engine:none is not on this machine; pull it"),
        ({"K15_IMAGE": f"k15-test@sha256:{'0' * 64}"}, "is not on this machine"),
        ({"K15_IMAGE": ""}, "make images"),
    ):
        with pytest.raises(ValueError, match=what):
            DockerLauncher.open({**own, **changes})
    other = f"FROM {IMAGE}\nLABEL k15.source=sha256:0\n".encode()
    launcher.client.images.build(fileobj=io.BytesIO(other), tag="k15-test:other", rm=True)
    with pytest.raises(ValueError, match="k15-test:other holds other code than this checkout; run `make im"):
        DockerLauncher.open({**own, "K15_IMAGE": "k15-test:other"})
    for resources, what in (
        (Resources(gpus=1), "NVIDIA Container Toolkit"),
        (Resources(infiniband=True), "no /dev/infiniband"),
        (Resources(memory_gb=1e6), "this machine has"),
        (Resources(etcd="http://10.0.0.1:2379"), "a container reaches none of them"),
    ):
        with pytest.raises(ValueError, match=what):
            launcher.start("sleeper", "s3://none", resources)
    with pytest.raises(ValueError, match="K15_S3_ENDPOINT: a container reaches 10.0.0.9 by a name"):
        replace(launcher, environment={"K15_S3_ENDPOINT": "http://10.0.0.9:9000"}).start(
            "x", "y", Resources()
        )
    assert launcher.client.containers.list(all=True) == []


def test_every_host_has_a_loopback_address_of_its_own() -> None:
    found = endpoints(
        {"K15_S3_ENDPOINT": "https://s3.example", "MLFLOW_TRACKING_URI": "https://mlflow.example"}
    )
    assert [(point.host, point.port) for point in found] == [("s3.example", 443), ("mlflow.example", 443)]
    assert len({point.loopback for point in found}) == 2
