"""Wall seconds of a round."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Wall seconds of a round by what they were spent on."""

    started: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[f"{name}_s"] = self.seconds.get(f"{name}_s", 0.0) + time.perf_counter() - begin

    def move(self, source: str, seconds: Mapping[str, float]) -> None:
        """Part of what was counted as `source` was spent on what `seconds` names."""
        self.seconds[f"{source}_s"] -= sum(seconds.values())
        for name, spent in seconds.items():
            self.seconds[f"{name}_s"] = self.seconds.get(f"{name}_s", 0.0) + spent

    def read(self) -> dict[str, float]:
        """Seconds so far, with the whole round's as wall_s."""
        return {**self.seconds, "wall_s": time.perf_counter() - self.started}
