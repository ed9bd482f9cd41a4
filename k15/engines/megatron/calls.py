"""What rank 0 tells the other ranks to do."""

import contextlib
import functools
from datetime import timedelta
from typing import Any

import torch.distributed as dist

IDLE = timedelta(days=20)  # ranks wait this long for one that is late, and for the leader's next call

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Calls:
    """The way to all ranks: a group of its own, as they wait longer for a call than for each other in one.

    Every rank is to make it at once.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo", timeout=IDLE)
        self.over = False  # the others have ended, or cannot be told

    def tell(self, call: Call | None) -> None:
        """Send a call to every follower; None lets them end."""
        dist.broadcast_object_list([call], src=0, group=self._group)

    def hear(self) -> Call | None:
        """The leader's next call."""
        message: list[Call | None] = [None]
        dist.broadcast_object_list(message, src=0, group=self._group)
        return message[0]

    def end(self) -> bool:
        """Let the followers end; False where that is not to be had by telling them."""
        if self.over:
            return False
        self.over = True
        with contextlib.suppress(RuntimeError):
            self.tell(None)
        return True


@functools.cache
def calls_of_process() -> Calls:
    """Those of this process: all ranks make them once they have met."""
    return Calls()
