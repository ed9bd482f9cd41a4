"""One sandbox service for the tests of a session, and the ways to build jobs for it."""

import os
import shutil
from collections.abc import Iterator

import pytest

from k15.engines.sandbox.client import Sandbox, launch_sandbox
from k15.engines.sandbox.settings import SandboxSettings
from k15.engines.service.process import Service
from k15.programs import Case, Job, Limits

LIMITS = Limits(cpu_s=2.0, wall_s=6.0)


def stdio(source: str, *cases: tuple[str, str | None], language: str = "python", **options: object) -> Job:
    """A job that reads and writes; `cases` are (input, expected output)."""
    made = tuple(Case(stdin=given, expected=wanted) for given, wanted in cases or (("", None),))
    return Job(language, source, "stdio", made, **{"limits": LIMITS, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="session", params=["crun", "bubblewrap"])
def isolation(request: pytest.FixtureRequest) -> str:
    """Each wall that this machine can build."""
    if request.param == "crun" and os.geteuid() != 0:
        pytest.skip("crun slots need root")
    program = {"crun": "crun", "bubblewrap": "bwrap"}[request.param]
    if not shutil.which(program):
        pytest.skip(f"apt-get install -y --no-install-recommends {program}")
    return str(request.param)


@pytest.fixture(scope="session")
def service(isolation: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = SandboxSettings(isolation=isolation, slots=2, memory_mb=512)
    log_path = tmp_path_factory.mktemp("sandbox") / f"{isolation}.log"
    with launch_sandbox(settings, log_path=log_path) as running:
        running.wait_ready(deadline_s=60)
        yield running


@pytest.fixture(scope="session")
def sandbox(service: Service) -> Iterator[Sandbox]:
    with Sandbox(service.port, service.token) as client:
        yield client
