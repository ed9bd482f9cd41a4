"""Real servers for tests: each runs in a folder of its own and is gone when the block ends."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.local import process
from infra.local.services import SERVICES
from k15.store.local import Service, State, credentials, home, read_state, write_state

START_LIMIT_S = 180.0


@contextmanager
def service(name: str, root: Path) -> Iterator[str]:
    """The address of a service of the local stack, recorded in `root` as if it were a checkout."""
    home(root).mkdir(mode=0o700, exist_ok=True)
    credentials(root)
    definition = SERVICES[name]
    port = process.free_port(definition.num_ports)
    environment = {**os.environ, **definition.environment(root, port)}
    log = home(root) / "logs" / f"{name}.log"
    pid, started = process.start(definition.command(root, port), environment, log, root)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not definition.ready(port):
            assert process.is_alive(pid, started) and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        services = {**read_state(root).services, name: Service(port=port, pid=pid, started=started)}
        write_state(root, State(services=services))
        yield definition.url(port)
    finally:
        process.end(pid, started)
