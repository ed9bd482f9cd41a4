"""The sandbox service: programs judged in isolated slots. `python -m stages.sandbox --config FILE`."""

import os
from collections.abc import Callable

from k15.engines.sandbox.container import require
from k15.engines.sandbox.settings import SandboxSettings
from k15.engines.service.main import run_process
from k15.engines.service.settings import TOKEN_VARIABLE


def main() -> None:
    """Serve until stopped; exit code 2 says why it cannot run here."""

    def run(settings: SandboxSettings, announce: Callable[[int], None]) -> None:
        from k15.engines.sandbox.service import serve  # noqa: PLC0415  see run_process

        require(settings.isolation)
        serve(settings, os.environ.get(TOKEN_VARIABLE, ""), announce)

    run_process(__doc__, SandboxSettings, run)


if __name__ == "__main__":
    main()
