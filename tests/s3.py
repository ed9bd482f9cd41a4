"""A real SeaweedFS that a test may start and kill."""

import os
import random
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from k15.store.artifact import Store
from k15.store.settings import StoreError

WEED = Path(__file__).parents[1] / ".venv" / "control" / "bin" / "weed"
READY_S = 60.0


class S3Server:
    """One `weed mini` on loopback with credentials of its own; `environment` names it and them."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self._directory = directory
        self._flags = flags
        self._port = _free_ports()
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            "K15_S3_ENDPOINT": f"http://127.0.0.1:{self._port}",
            "K15_S3_BUCKET": "k15-test",
            "AWS_ACCESS_KEY_ID": secrets.token_hex(8),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
        }

    def start(self) -> None:
        """Start it and wait until it serves."""
        self._directory.mkdir(parents=True, exist_ok=True)
        names = ("s3", "master", "volume", "filer", "admin")
        ports = [f"-{name}.port={self._port + offset}" for offset, name in enumerate(names)]
        quiet = ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command = [str(WEED), "mini", f"-dir={self._directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        with (self._directory / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *ports, *quiet, *self._flags, "-master.telemetry=false"],
                env=os.environ | self.environment | {"GOMAXPROCS": "1", "GOMEMLIMIT": "512MiB"},
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + READY_S
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not start; see {self._directory}/weed.log")
            time.sleep(0.2)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def _serves(self) -> bool:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", self._port)):
                return False
        store = Store.from_environment(self.environment)
        try:
            store.objects.check()
            store.objects.put("ready", b"1")
        except StoreError:
            return False
        return True


@contextmanager
def s3_server(directory: Path, *flags: str) -> Iterator[S3Server]:
    """A server that is gone when the block ends; `flags` are further options of `weed mini`."""
    server = S3Server(directory, *flags)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _free_ports() -> int:
    """The first of five neighbouring free ports, with their gRPC twins 10,000 above."""
    while True:
        base = random.randrange(20_000, 45_000)
        wanted = [base + offset + twin for offset in range(5) for twin in (0, 10_000)]
        if all(_is_free(port) for port in wanted):
            return base


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
