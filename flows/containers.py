"""Stages as Docker containers: closed on every side but the endpoints they are given."""

import codecs
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from flows.enclosure import INSIDE, Enclosure, folder, remove
from k15.recipes import Resources
from k15.store.code import source_digest
from k15.store.lease import is_dead, this_process

DEFAULT_IMAGE = "k15-engine:cpu"
LABEL = "k15.launcher"  # of a container: the process that started it
SOURCE_LABEL = "k15.source"  # of an image: the digest of the code in it
USER_ID = 10001  # of the images' user; where this process is not root, stages have its own id
STOP_GRACE_S = 8.0  # from SIGTERM to SIGKILL: cancel takes at most 10 s
DAEMON_BACK_S = 120.0  # how long a daemon may take to restart
POLL_S = 0.5
API_TIMEOUT_S = 60
MAX_PROCESSES = 4096
INFINIBAND = Path("/dev/infiniband")
SIGNALLED = range(129, 193)  # exit codes 128 + signal
AWAY = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, ConnectionError)


class ContainerExecution:
    """A stage in a container. When this process dies, the daemon closes the stage's stdin, and it ends."""

    def __init__(self, container: Any, enclosure: Enclosure, resources: Resources) -> None:
        self._container = container
        self._enclosure = enclosure
        self._resources = resources
        self._output = container.attach(stdout=True, stderr=True, stream=True)
        self._stdin = container.attach_socket(params={"stdin": 1, "stream": 1})
        self._code: int | None = None
        self._lock = threading.Lock()
        container.start()

    @property
    def id(self) -> str:
        """The container's."""
        return str(self._container.id)

    def lines(self) -> Iterator[str]:
        """What the stage prints; one more line says where the kernel ended it for want of memory."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        try:
            for chunk in self._output:
                *whole, rest = (rest + decoder.decode(chunk)).split("\n")
                yield from whole
        except AWAY:
            rest += "\n(the Docker daemon went away; what was printed since is lost)"
        if rest:
            yield from rest.split("\n")
        state = self._state_at_end()
        if state.get("OOMKilled") and state.get("ExitCode"):
            yield (
                f"error: out of memory: the kernel ended the stage at its limit of "
                f"{self._resources.memory_gb:g} GB; raise its resources.memory_gb"
            )

    def wait(self) -> int:
        """The exit code, negative for a signal. The container and all that was made for it are gone."""
        state = self._state_at_end()
        with self._lock:
            if self._code is None:
                code = int(state.get("ExitCode", 1))
                self._code = 128 - code if code in SIGNALLED else code
                self._stdin.close()
                self._enclosure.close()
                _removed(self._container)
        return self._code

    def cancel(self) -> None:
        """SIGTERM, SIGKILL once the grace is over."""
        try:
            self._container.stop(timeout=int(STOP_GRACE_S))
        except NotFound:
            return
        except (APIError, *AWAY):
            self._state_at_end()

    def _state_at_end(self) -> dict[str, Any]:
        """The container's state once it has ended; a daemon that goes away meanwhile is waited for.

        RuntimeError where it does not come back: whether the stage goes on is not known.
        """
        away_since: float | None = None
        while True:
            try:
                self._container.reload()
                state: dict[str, Any] = self._container.attrs["State"]
                if state["Status"] in ("exited", "dead"):
                    return state
                away_since = None
                self._container.wait(timeout=API_TIMEOUT_S)
            except NotFound:
                return {"ExitCode": self._code if self._code is not None else 1}
            except requests.exceptions.ReadTimeout:
                continue
            except AWAY as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > DAEMON_BACK_S:
                    raise RuntimeError(f"the Docker daemon went away: {error}; start it again") from None
                time.sleep(POLL_S)


@dataclass(frozen=True)
class DockerLauncher:
    """Stages in containers of one image, named by its content."""

    client: Any
    image_id: str
    image_digest: str
    environment: Mapping[str, str]
    package: str = "stages"
    debug: bool = False
    name: str = "docker"

    @classmethod
    def open(
        cls, environment: Mapping[str, str], package: str = "stages", *, debug: bool = False
    ) -> "DockerLauncher":
        """A launcher of the image that K15_IMAGE names, once what dead launchers left is removed.

        ValueError where there is no daemon, no right to use it, no such image, or one of other code than the
        work directory's: each names the remedy.
        """
        client = connect(environment)
        wanted = environment.get("K15_IMAGE") or DEFAULT_IMAGE
        try:
            image = client.images.get(wanted)
        except (ImageNotFound, NotFound):
            pull = "pull it (docker pull) or set K15_IMAGE to one that is here"
            remedy = "run `make images`" if wanted == DEFAULT_IMAGE else pull
            raise ValueError(f"image {wanted} is not on this machine; {remedy}") from None
        except APIError as error:
            raise ValueError(
                f"K15_IMAGE={wanted}: {error.explanation}; write NAME:TAG or NAME@sha256:…"
            ) from None
        source = image.labels.get(SOURCE_LABEL)
        if source and source != source_digest(Path.cwd()):
            raise ValueError(f"image {wanted} holds other code than this checkout; run `make images`")
        repository = [text.partition("@")[2] for text in image.attrs.get("RepoDigests") or ()]
        sweep(client)
        return cls(client, image.id, (repository or [image.id])[0], environment, package, debug)

    def start(self, kind: str, job_uri: str, resources: Resources) -> ContainerExecution:
        """Start the stage's container; ValueError where the machine has not what the stage asks for."""
        name = f"k15-{kind}-{uuid4().hex[:12]}"
        owner = os.getuid() or USER_ID
        options = self._options(resources, owner)
        enclosure = Enclosure(name, self.environment, owner)
        stage = ["python", "-u", "-m", f"{self.package}.{kind}", "--job", job_uri, *["--debug"] * self.debug]
        relay = ["python", "-m", "k15.store.relay", str(INSIDE / "endpoints"), "--"]
        container = None
        try:
            container = self.client.containers.create(
                self.image_id,
                [*relay, *stage],
                name=name,
                user=f"{owner}:{owner}",
                hostname=socket.gethostname(),
                extra_hosts={socket.gethostname(): "127.0.0.1", **enclosure.hosts},
                labels={LABEL: this_process(), "k15.kind": kind, "k15.job": job_uri},
                environment={"OMP_NUM_THREADS": str(resources.cores), **enclosure.variables},
                volumes={str(enclosure.folder): {"bind": str(INSIDE), "mode": "ro"}},
                stdin_open=True,
                **CLOSED,
                **options,
            )
            return ContainerExecution(container, enclosure, resources)
        except BaseException as error:
            enclosure.close()
            if container is not None:
                _removed(container)
            if isinstance(error, APIError):
                raise ValueError(f"Docker refused to start {kind}: {error.explanation}") from None
            raise

    def _options(self, resources: Resources, owner: int) -> dict[str, Any]:
        """Limits and devices of a container, and its scratch, which `owner` (a user id) may write."""
        about = _once_back(self.client.info)
        memory = int(resources.memory_gb * 2**30)
        if memory > about["MemTotal"]:
            raise ValueError(
                f"resources.memory_gb = {resources.memory_gb:g}: this machine has "
                f"{about['MemTotal'] / 2**30:.1f} GB; ask for less, or run on a larger machine"
            )
        if resources.samples_elsewhere:
            raise ValueError(
                "resources.samplers and resources.etcd: a container reaches none of them, as weights take "
                "ports that nobody declares; run with runtime process"
            )
        options: dict[str, Any] = {
            "mem_limit": memory,
            "memswap_limit": memory,
            "nano_cpus": int(min(resources.cores, about["NCPU"]) * 1e9),
            "shm_size": memory // 2,
            "tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,size={memory},mode=0700,uid={owner},gid={owner}"},
        }
        if resources.gpus:
            options["device_requests"] = [_gpus(about, resources.gpus)]
        if resources.infiniband:
            options["devices"] = _infiniband_devices()
            options["ulimits"] = [docker.types.Ulimit(name="memlock", soft=-1, hard=-1)]
        return options


CLOSED: dict[str, Any] = {  # what no stage has
    "network_mode": "none",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "pids_limit": MAX_PROCESSES,
    "init": True,
    "log_config": docker.types.LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
}


def connect(environment: Mapping[str, str]) -> Any:
    """A client of the daemon that DOCKER_HOST names, or of the local one; ValueError names the remedy."""
    try:
        client = docker.from_env(environment=dict(environment), timeout=API_TIMEOUT_S)
        client.ping()
    except (DockerException, requests.RequestException) as error:
        where = environment.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        if "Permission denied" in str(error):
            remedy = "this user may not use it: join the group docker, or run as root"
        else:
            remedy = (
                "install Docker and start its daemon (`systemctl start docker`), or use --runtime process"
            )
        raise ValueError(f"no Docker daemon at {where}; {remedy}") from None
    return client


def sweep(client: Any) -> list[str]:
    """Remove the containers of launchers that are no more, and their folders; the names of those removed."""
    removed = []
    for container in client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
        if is_dead(container.labels[LABEL]):
            _removed(container)
            remove(folder(container.name))
            removed.append(str(container.name))
    return removed


def _removed(container: Any) -> None:
    """The container is gone, ended or not. Where the daemon is away it is left to the next sweep."""
    try:
        container.remove(force=True, v=True)
    except (APIError, *AWAY):
        return


def _once_back(call: Any) -> Any:
    """What the daemon answers, waited for while it restarts."""
    began = time.monotonic()
    while True:
        try:
            return call()
        except AWAY as error:
            if time.monotonic() - began > DAEMON_BACK_S:
                raise ValueError(f"the Docker daemon went away: {error}; start it again") from None
            time.sleep(POLL_S)


def _gpus(about: Mapping[str, Any], count: int) -> Any:
    if "nvidia" not in (about.get("Runtimes") or {}) and not about.get("CDISpecDirs"):
        raise ValueError(
            f"resources.gpus = {count}: this Docker has no NVIDIA runtime; install the NVIDIA Container "
            "Toolkit and restart Docker, or set gpus = 0"
        )
    return docker.types.DeviceRequest(count=count, capabilities=[["gpu"]])


def _infiniband_devices() -> list[str]:
    found = sorted(INFINIBAND.iterdir()) if INFINIBAND.is_dir() else []
    if not found:
        raise ValueError(f"resources.infiniband: this machine has no {INFINIBAND}; set it to false")
    return [f"{path}:{path}:rw" for path in found]
