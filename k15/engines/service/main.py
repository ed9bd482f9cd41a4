"""The life of a service process: settings in, one line out when it serves, and an end with its parent."""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from k15.config import Config
from k15.engines.service.process import BAD_INPUT
from k15.engines.service.server import Endpoint, Server
from k15.engines.service.settings import TOKEN_VARIABLE, WATCH_VARIABLE, SamplerSettings

PARENT_GONE_GRACE_S = 1.0

Settings = TypeVar("Settings", bound=Config)


def run_service(
    description: str | None,
    settings_type: type[Settings],
    build: Callable[[Settings], AbstractContextManager[Mapping[str, Endpoint]]],
) -> None:
    """Serve what `build` makes of the settings in `--config` until stopped; a Service ends with its parent.

    Exit codes as `run_process`. `build` imports its engine only when it is called: by then the parent is
    already watched.
    """

    def run(settings: Settings, announce: Callable[[int], None]) -> None:
        token = os.environ.get(TOKEN_VARIABLE, "")
        with build(settings) as endpoints:
            Server(endpoints, token=token, **address(settings)).run(announce)

    run_process(description, settings_type, run)


def address(settings: Config) -> dict[str, Any]:
    """Where a service listens, if its settings say so."""
    if isinstance(settings, SamplerSettings):
        return {"host": settings.listen, "port": settings.port}
    return {}


def run_process(
    description: str | None,
    settings_type: type[Settings],
    run: Callable[[Settings, Callable[[int], None]], None],
) -> None:
    """A service's process: `run` gets the settings in `--config`, and what announces its port.

    Exit code 0 when stopped, 2 where the settings are bad (ValueError), 1 after a fault.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True, help=f"JSON of {settings_type.__name__}")
    path: Path = parser.parse_args().config
    announce = announcer()
    end_on_signal()
    if os.environ.get(WATCH_VARIABLE) == "1":
        end_with_parent()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    code = 0
    try:
        run(settings_type.parse(json.loads(path.read_text()), where=str(path)), announce)
    except _Terminated:
        pass
    except ValueError as error:
        logging.getLogger(__name__).error("%s", error)
        code = BAD_INPUT
    sys.stderr.flush()
    os._exit(code)  # all is given back; the engines' libraries would take seconds to unload


class _Terminated(BaseException):
    """SIGTERM came."""


def announcer() -> Callable[[int], None]:
    """Keep standard output for the line `ready port=N`: all else that is printed goes to standard error."""
    out = os.dup(1)
    sys.stdout.flush()
    os.dup2(2, 1)

    def announce(port: int) -> None:
        os.write(out, f"ready port={port}\n".encode())

    return announce


def end_on_signal() -> None:
    """SIGTERM unwinds the main thread, so that what the service holds is given back."""

    def end(_number: int, _frame: object) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, end)


def end_with_parent() -> None:
    """End this process when standard input closes. The parent holds its other end, so any death counts."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PARENT_GONE_GRACE_S)  # the main thread may be deep inside a kernel and see no signal
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
