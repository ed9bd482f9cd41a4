"""The tests that `make test` leaves out because they take minutes: every one of them, suite by suite.

`make bench NAME=soak`; writes out/bench/soak.json with the suites that failed and the seconds all took.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

SUITES = ("engine", "e2e")


def main() -> int:
    """Run them; the exit code is 1 where a test failed."""
    began, failed = time.monotonic(), 0
    for suite in SUITES:
        done = subprocess.run([sys.executable, "infra/test.py", suite, "--", "-m", "soak"], check=False)
        failed += done.returncode != 0
    figures = {"suites_failed": failed, "seconds": time.monotonic() - began}
    target = Path("out/bench/soak.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1))
    print(*(f"{name}={value:.0f}" for name, value in figures.items()), sep="  ")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
