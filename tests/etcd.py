"""A real etcd of one member, on free ports of loopback."""

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_S = 30.0


class Etcd:
    """Its process, which a test may end and start again on the same data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        client, peer = free_port(), free_port()
        self.url, self._peer = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "etcd",
                    *("--data-dir", str(self._folder / "data"), "--logger", "zap"),
                    *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
                    *("--listen-peer-urls", self._peer, "--initial-advertise-peer-urls", self._peer),
                    *("--initial-cluster", f"default={self._peer}"),
                ],
                stdout=log,
                stderr=log,
            )
        end_s = time.monotonic() + START_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > end_s:
                    raise
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def etcd_server(folder: Path) -> Iterator[Etcd]:
    """One that runs; the test is skipped where etcd is not installed (apt: etcd-server)."""
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed (apt-get install etcd-server)")
    server = Etcd(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
