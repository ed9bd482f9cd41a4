"""Samplers in etcd: listed while they live, and again after etcd or they themselves were away."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from k15.engines.directory import LEASE_S, SamplerDirectory
from tests.e2e.driver import wait_for
from tests.etcd import etcd_server

pytestmark = [pytest.mark.engine]

ANNOUNCE = """
import sys, time
from k15.engines.directory import SamplerDirectory
with SamplerDirectory(sys.argv[1], "mine").announced(sys.argv[2]):
    print("listed", flush=True)
    sys.stdin.read()
"""


def announcer(etcd: str, url: str) -> "subprocess.Popen[str]":
    """A process that lists `url` until its standard input closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", ANNOUNCE, etcd, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert process.stdout is not None and process.stdout.readline() == "listed\n"
    return process


def test_samplers_are_listed_by_pool_while_they_live(tmp_path: Path) -> None:
    with etcd_server(tmp_path / "etcd") as etcd:
        mine, others = SamplerDirectory(etcd.url, "mine"), SamplerDirectory(etcd.url, "others")
        first = announcer(etcd.url, "http://10.0.0.2:7000")
        second = announcer(etcd.url, "http://10.0.0.1:7000")
        with others.announced("http://10.0.0.3:7000"):
            assert mine.urls() == ["http://10.0.0.1:7000", "http://10.0.0.2:7000"]
            assert others.urls() == ["http://10.0.0.3:7000"]
        assert others.urls() == []
        first.communicate("")  # ends well
        assert mine.urls() == ["http://10.0.0.1:7000"]
        second.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        second.communicate()
        assert mine.urls() == ["http://10.0.0.1:7000"]
        wait_for(lambda: mine.urls() == [], "the end of its lease", timeout_s=4 * LEASE_S)
        assert time.monotonic() - killed > LEASE_S / 5


def test_a_sampler_is_listed_again_once_a_lost_etcd_is_back(tmp_path: Path) -> None:
    with etcd_server(tmp_path / "etcd") as etcd:
        directory = SamplerDirectory(etcd.url, "mine")
        with directory.announced("http://10.0.0.1:7000"):
            etcd.kill()
            with pytest.raises(ConnectionError, match=f"etcd at {etcd.url} does not answer"):
                directory.urls()
            with pytest.raises(ConnectionError, match="does not answer"), directory.announced("http://x:1"):
                pass
            for file in (tmp_path / "etcd/data/member").rglob("*"):  # the lease is gone with all data
                if file.is_file():
                    file.unlink()
            (tmp_path / "etcd/data").rename(tmp_path / "old")
            etcd.start()
            wait_for(lambda: directory.urls() == ["http://10.0.0.1:7000"], "its listing", timeout_s=30)


@pytest.mark.parametrize(
    ("url", "pool", "said"),
    [
        ("10.0.0.1:2379", "mine", "write http://host:2379"),
        ("http://10.0.0.1:2379", "a/b", "no name of a pool"),
    ],
)
def test_what_is_no_directory_is_refused(url: str, pool: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SamplerDirectory(url, pool)
