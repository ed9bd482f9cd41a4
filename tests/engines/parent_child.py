"""A parent that starts an echo service and waits to be killed: `parent_child.py DIRECTORY [grind]`."""

import json
import sys
import threading
import time
from pathlib import Path

from k15.engines.service.calls import call
from k15.engines.service.messages import Empty
from k15.engines.service.process import Service
from tests.engines.echo_service import Talk

SETTINGS = {"greeting": "hello", "holds_memory": True}


def main() -> None:
    directory = Path(sys.argv[1])
    service = Service.start("tests.engines.echo_service", SETTINGS, log_path=directory / "echo.log")
    facts = call(service, "facts", Empty(), Talk, deadline_s=10).said
    if "grind" in sys.argv:
        threading.Thread(
            target=call, args=(service, "grind", Empty(), Empty), kwargs={"deadline_s": 600}, daemon=True
        ).start()
        time.sleep(0.3)
    print(json.dumps(facts), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
