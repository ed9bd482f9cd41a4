"""Ends of processes: notice that the parent died, and leave no child behind."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

CHILD_GRACE_S = 3.0


def watch_stdin(on_end: Callable[[], None]) -> threading.Thread:
    """Call `on_end` from a thread when stdin ends: the parent, which holds its other end, is gone."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 65536):
                pass
        on_end()

    thread = threading.Thread(target=wait, name="stdin-watchdog", daemon=True)
    thread.start()
    return thread


def end_with_children(code: int) -> None:
    """End every descendant (SIGTERM, then SIGKILL), then this process at once with exit code `code`."""
    try:
        end_descendants(CHILD_GRACE_S)
    finally:
        os._exit(code)


def end_descendants(grace_s: float) -> None:
    """SIGTERM to every descendant process, SIGKILL to those left after `grace_s`."""
    first = descendants(os.getpid())
    _signal_all(first, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(_alive(pid) for pid in first):
        time.sleep(0.05)
    _signal_all(set(first) | set(descendants(os.getpid())), signal.SIGKILL)


def descendants(root: int) -> list[int]:
    """Ids of the processes below `root`, from /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _signal_all(pids: set[int] | list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            if _alive(pid):
                os.kill(pid, number)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
