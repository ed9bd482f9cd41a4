"""Progress in Prefect: a bar where the server answers, one warning where it does not."""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from tests.flows.driver import ROOT

pytestmark = pytest.mark.control

SCRIPT = """
from flows import progress
progress.EVERY_S = 0.0
bar = progress.Progress("sft", "run")
assert [bar.read(f"progress done={done} total=9 what=steps") for done in range(4)] == [True] * 4
print("went on")
"""


class Refusing(BaseHTTPRequestHandler):
    """A server that is up and can do nothing."""

    def do_POST(self) -> None:
        self.send_error(500)

    do_GET = do_PATCH = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def follow(api: str) -> "subprocess.CompletedProcess[str]":
    """What a process prints that reports progress to `api`."""
    environment = {"PREFECT_API_URL": api, "PREFECT_CLIENT_MAX_RETRIES": "0", "DO_NOT_TRACK": "1"}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_prefect_server_that_is_away_is_told_once() -> None:
    done = follow("http://127.0.0.1:9/api")
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    assert done.stderr.count("progress is not shown in Prefect") == 1


def test_a_prefect_server_that_fails_is_told_once() -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        done = follow(f"http://127.0.0.1:{server.server_port}/api")
        server.shutdown()
        thread.join()
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    assert done.stderr.count("progress is not shown in Prefect") == 1
