"""How a side of the benchmark takes its turns: it trains while the parent waits for its line.

A line on standard input is the number of steps to make; the answer is a line of JSON behind MARK.
"""

import json
import sys
import time

MARK = "round "


class Turns:
    """The steps of one side, measured in CPU-seconds of this process."""

    def __init__(self) -> None:
        self._left = 0
        self._began = 0.0
        self._losses: list[float] = []

    def before_step(self) -> None:
        """Wait for the next turn, where the last one is over."""
        if self._left == 0:
            line = sys.stdin.readline()
            if not line:
                sys.exit(0)
            self._left = int(line)
            self._losses = []
            self._began = time.process_time()

    def after_step(self) -> None:
        """Count the step; at the end of the turn note its time."""
        self._left -= 1
        if self._left == 0:
            self._cpu_s = time.process_time() - self._began

    def note_loss(self, loss: float) -> None:
        """A step's loss, known after the step; the last one ends the turn."""
        self._losses.append(loss)
        if self._left == 0:
            print(MARK + json.dumps({"cpu_s": self._cpu_s, "losses": self._losses}), flush=True)
