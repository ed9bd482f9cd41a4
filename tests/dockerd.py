"""A Docker daemon of our own, and an image of this very Python and checkout, made without a registry."""

import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker

ROOT = Path(__file__).parents[1]
START_S = 30.0
STAGE_NEEDS = ("s3fs", "pydantic", "httpx", "pyarrow")  # what a test stage imports
IMAGE = "k15-test:latest"


def missing() -> str:
    """Why no daemon can be started here; "" where one can."""
    if os.geteuid() != 0:
        return "a Docker daemon needs root"
    absent = [name for name in ("dockerd", "docker-init", "iptables") if not shutil.which(name)]
    return f"not installed: {', '.join(absent)} (apt-get install docker.io iptables)" if absent else ""


class Daemon:
    """dockerd with a socket, a data root and a bridge-free network of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder / 'docker.sock'}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """It answers on return."""
        folder = self.folder
        command = [
            *("dockerd", "--host", self.host, "--data-root", str(folder / "data")),
            *("--exec-root", str(folder / "exec"), "--pidfile", str(folder / "docker.pid")),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false"),
        ]
        with (folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        began = time.monotonic()
        while True:
            try:
                self.client().ping()
                return
            except Exception:  # noqa: BLE001 (whatever a client meets while the daemon starts)
                assert self._process.poll() is None and time.monotonic() - began < START_S, self.log()
                time.sleep(0.1)

    def client(self) -> Any:
        """A new client of it."""
        return docker.DockerClient(base_url=self.host, timeout=60)

    def log(self) -> str:
        """The end of what it wrote."""
        return (self.folder / "dockerd.log").read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """SIGKILL: its containers go on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        mark = self.folder / "exec" / "containerd" / "containerd.pid"
        pid = int(mark.read_text())
        while Path(f"/proc/{pid}").exists():  # the kernel ends it with its parent
            time.sleep(0.05)
        mark.unlink()

    def stop(self) -> None:
        """No container of it and no process is left."""
        if self._process is None or self._process.poll() is not None:
            return
        for container in self.client().containers.list(all=True):
            container.remove(force=True)
        self._process.terminate()
        self._process.wait(timeout=30)


@contextmanager
def daemon(folder: Path | None = None) -> Iterator[Daemon]:
    """A running daemon; nothing of it is left afterwards, its folder included."""
    made = folder or Path(tempfile.mkdtemp(prefix="k15-dockerd-"))  # short: sockets lie in it
    started = Daemon(made)
    try:
        started.start()
        yield started
    finally:
        started.stop()
        shutil.rmtree(made, ignore_errors=True)


def load_image(client: Any, packages: tuple[str, ...] = ("k15", "tests")) -> str:
    """An image with this interpreter, what a test stage imports, and the checkout in /app; its id."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
            for source, target in _content(packages).items():
                tar.add(source, target, recursive=False)
            for name in ("tmp", "proc", "sys", "dev", "etc", "run"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            _add(tar, "etc/passwd", b"root:x:0:0::/:/bin/false\nk15:x:10001:10001::/tmp:/bin/false\n")
        file.seek(0)
        changes = ["WORKDIR /app", "ENV PATH=/usr/bin HOME=/tmp PYTHONPATH=/packages", "USER 10001"]
        client.api.import_image_from_data(file, "k15-test", "latest", changes=changes)
    return str(client.images.get(IMAGE).id)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))


def _content(packages: tuple[str, ...]) -> dict[Path, str]:
    """Files of this machine and where they lie in the image."""
    prefix = Path(sys.base_prefix)
    python = Path(sys.executable).resolve()
    library = prefix / "lib" / "python3.11"
    found = {python: "usr/bin/python"}
    for path in library.rglob("*"):
        parts = path.relative_to(library).parts
        if path.is_file() and parts[0] not in (
            "site-packages",
            "test",
            "idlelib",
            "ensurepip",
            "config-3.11",
        ):
            found[path] = f"usr/lib/python3.11/{path.relative_to(library)}"
    for distribution in _closure(STAGE_NEEDS):
        for file in distribution.files or ():
            path = Path(str(file.locate()))
            if not str(file).startswith("..") and path.is_file():
                found[path] = f"packages/{file}"
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            found[path] = f"app/{path.relative_to(ROOT)}"
    binaries = [path for path in found if path == python or ".so" in path.suffixes]
    return found | {path: str(path).lstrip("/") for path in _libraries(binaries)}


def _closure(names: tuple[str, ...]) -> list[importlib.metadata.Distribution]:
    """Distributions and all they need, of those installed here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        needs = [need for need in found[name].requires or () if "extra ==" not in need]
        waiting += [match[0] for need in needs if (match := re.match(r"[\w.-]+", need))]
    return list(found.values())


def _libraries(binaries: list[Path]) -> set[Path]:
    """The shared libraries outside packages that they load, and the loader."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False)
    found = {Path(match) for match in re.findall(r"(/\S+) \(0x", done.stdout)}
    homes = ("/lib", "/lib64", "/usr/lib", Path(sys.base_prefix) / "lib")
    return {
        path
        for path in found
        if "site-packages" not in path.parts and any(path.is_relative_to(home) for home in homes)
    }
