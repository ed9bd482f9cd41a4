"""Ways a run is stopped from outside: Ctrl-C, SIGTERM, and Cancel in the Prefect UI."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError

POLL_S = 2.0


@contextmanager
def stopped_by_signals(stop: Callable[[str], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `stop` while the block runs; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, _frame: FrameType | None) -> None:
        stop(f"cancelled by {signal.Signals(number).name}")

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.signal(number, on_signal)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def stopped_by_prefect(flow_run_id: str, stop: Callable[[str], None]) -> Iterator[None]:
    """Cancel in the Prefect UI calls `stop` while the block runs."""
    over = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(UUID(flow_run_id), stop, over), name="cancellation", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(flow_run_id: UUID, stop: Callable[[str], None], over: threading.Event) -> None:
    with get_client(sync_client=True) as client:
        while not over.wait(POLL_S):
            try:
                state = client.read_flow_run(flow_run_id).state
            except (httpx.HTTPError, PrefectHTTPStatusError):
                continue  # the server is away; ask again
            if state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED):
                stop("cancelled in Prefect")
                return
