"""Services as processes: answers, refusals, faults, deaths of either side."""

import errno
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from k15.engines.service.calls import call
from k15.engines.service.client import RemoteTrainer
from k15.engines.service.messages import Empty, Health, HealthCall, SampleCall
from k15.engines.service.process import Service
from k15.engines.service.watch import PING_EVERY_S, Watch
from k15.engines.shared_memory import sweep
from tests.engines.echo_service import Talk

pytestmark = pytest.mark.engine

MODULE = "tests.engines.echo_service"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log_path = tmp_path_factory.mktemp("echo") / "echo.log"
    with Service.start(MODULE, {"greeting": "hello"}, log_path=log_path) as service:
        yield service


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Service]:
    with Service.start(MODULE, {"greeting": "hello"}, log_path=tmp_path / "echo.log") as service:
        yield service


def test_it_answers_and_keeps_its_announcement_apart_from_its_prints(echo: Service) -> None:
    assert call(echo, "echo", Talk({"a": [1, 2.5, "x"]}), Talk, deadline_s=5).said == {"a": [1, 2.5, "x"]}
    assert call(echo, "facts", Empty(), Talk, deadline_s=5).said["greeting"] == "hello"
    assert "this line is no announcement" in echo.last_lines()


def test_a_frozen_service_is_ended_and_its_caller_told(mortal: Service) -> None:
    trainer = RemoteTrainer(mortal, deadline_s=600)
    told: list[str] = []
    watch = Watch(5.0, lambda name, error: told.append(f"{name}: {error}"))
    watch.add("trainer", trainer)
    time.sleep(2 * PING_EVERY_S)
    assert told == []
    mortal.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=r"was ended: .* no answer to health within 5.0 s"):
        trainer.layout()
    assert time.monotonic() - began < 30
    assert len(told) == 1 and told[0].startswith("trainer: ")
    watch.close()


def test_bad_input_is_a_value_error_and_it_serves_on(echo: Service) -> None:
    with pytest.raises(ValueError, match="this input is refused"):
        call(echo, "refuse", Empty(), Empty, deadline_s=5)
    with pytest.raises(ValueError, match=r"/echo: .*missing required field `said`"):
        call(echo, "echo", SampleCall((), 1.0), Talk, deadline_s=5)
    with pytest.raises(FloatingPointError, match="^[^:]*: the loss is nan"):
        call(echo, "diverge", Empty(), Empty, deadline_s=5)
    with pytest.raises(RuntimeError, match="nothing_of_this_name: HTTP status 404"):
        call(echo, "nothing_of_this_name", Empty(), Empty, deadline_s=5)
    assert call(echo, "health", HealthCall(), Health, deadline_s=5) == Health()


@pytest.mark.parametrize("token", [None, "", "wrong", "ü"])
def test_only_the_token_opens_it(echo: Service, token: str | None) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", echo.port, timeout=5)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    for name in ("echo", "health", "stop"):
        connection.request("POST", f"/{name}", b"\x80", headers)
        response = connection.getresponse()
        response.read()
        assert response.status == 401
    connection.close()
    assert echo.alive


def test_a_missed_deadline_is_told_in_time(mortal: Service) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer to rest within 0\.5 s"):
        call(mortal, "rest", Talk({"seconds": 30}), Empty, deadline_s=0.5)
    assert time.monotonic() - started < 1.5


def test_a_fault_is_told_and_ends_the_service(mortal: Service) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError: the engine broke"):
        call(mortal, "fault", Empty(), Empty, deadline_s=5)
    assert mortal.process.wait(10) == 1
    with pytest.raises(
        ConnectionError, match=r"(?s)echo_service \(pid \d+\) ended with exit code 1.*the engine broke"
    ):
        call(mortal, "echo", Talk({}), Talk, deadline_s=5)


def test_a_full_disk_in_a_service_is_a_full_disk_to_its_caller(mortal: Service) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        call(mortal, "fill", Empty(), Empty, deadline_s=5)
    assert caught.value.errno == errno.ENOSPC


def test_a_service_killed_in_a_call_is_named_at_once(mortal: Service) -> None:
    threading.Timer(0.3, mortal.process.send_signal, [signal.SIGKILL]).start()
    started = time.monotonic()
    with pytest.raises(
        ConnectionError, match=r"(?s)echo_service \(pid \d+\) was killed by signal 9.*announcement"
    ):
        call(mortal, "grind", Empty(), Empty, deadline_s=60)
    assert time.monotonic() - started < 1.3


def test_a_call_broken_off_by_a_signal_is_a_connection_error(mortal: Service) -> None:
    threading.Timer(0.3, mortal.process.terminate).start()
    with pytest.raises(ConnectionError, match="echo_service"):
        call(mortal, "rest", Talk({"seconds": 30}), Empty, deadline_s=60)
    assert mortal.process.wait(10) == 0


def test_stop_ends_it_politely_and_twice_is_no_error(tmp_path: Path) -> None:
    settings = {"greeting": "hello", "holds_memory": True}
    mortal = Service.start(MODULE, settings, log_path=tmp_path / "echo.log")
    path = Path(call(mortal, "facts", Empty(), Talk, deadline_s=5).said["path"])
    assert path.exists()
    assert mortal.stop() == 0
    assert not path.exists()
    assert mortal.stop() == 0
    assert not mortal.alive


def test_settings_it_refuses_are_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)exit code 2.*greting: unknown key"):
        Service.start(MODULE, {"greting": "hello"}, log_path=tmp_path / "echo.log")


def test_a_module_that_does_not_start_is_a_connection_error(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="No module named tests"):
        Service.start("tests.engines.no_such_service", {}, log_path=tmp_path / "none.log")


@pytest.mark.parametrize("busy", [False, True])
def test_the_death_of_the_parent_ends_the_service_and_the_next_start_clears_its_memory(
    busy: bool, tmp_path: Path
) -> None:
    arguments = [
        str(Path(__file__).with_name("parent_child.py")),
        str(tmp_path),
        *(["grind"] if busy else []),
    ]
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout is not None
        facts = json.loads(parent.stdout.readline())
        parent.kill()
    end_s = time.monotonic() + 2
    while (runs(facts["pid"]) or not sweeps(Path(facts["path"]))) and time.monotonic() < end_s:
        time.sleep(0.02)
    assert not runs(facts["pid"])
    assert not Path(facts["path"]).exists()


def sweeps(path: Path) -> bool:
    """Whether the file is gone after a sweep, as every start of a sampler makes one."""
    sweep()
    return not path.exists()


def runs(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
