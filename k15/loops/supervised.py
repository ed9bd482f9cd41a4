"""Fitting tokens: the same loop for pretraining, activation, SFT and long-CoT SFT."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

from k15.records import Sequence as Row

RECENT = 20  # steps whose mean loss stands for where a run ended
T = TypeVar("T")


class Stepper(Protocol):
    """What the loop needs of ports.Trainer."""

    def supervised_step(self, batch: Sequence[Row], *, lr: float) -> dict[str, float]:
        """One update; its loss, gradient_norm and num_tokens."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a run did."""

    steps: int  # updates made; fewer than asked for where it was stopped
    first_loss: float
    last_loss: float  # mean of the last RECENT steps
    num_tokens: int
    seconds: float

    def summary(self) -> dict[str, float]:
        """The same as flat numbers."""
        return {
            "steps": float(self.steps),
            "first_loss": self.first_loss,
            "loss": self.last_loss,
            "num_tokens": float(self.num_tokens),
            "tokens_per_s": self.num_tokens / max(self.seconds, 1e-9),
        }


def shuffled(items: Sequence[T], seed: int) -> Iterator[T]:
    """`items` again and again, each time all of them in a new order; the same for the same seed."""
    if not items:
        raise ValueError("there is nothing to train on: the table is empty")
    source = random.Random(seed)
    order = list(range(len(items)))
    while True:
        source.shuffle(order)
        yield from (items[place] for place in order)


def batches(rows: Sequence[Row], examples_per_step: int, seed: int) -> Iterator[list[Row]]:
    """Endless batches of shuffled rows."""
    stream = shuffled(rows, seed)
    while True:
        yield list(islice(stream, examples_per_step))


def fit(
    trainer: Stepper,
    batches: Iterable[Sequence[Row]],
    *,
    steps: int,
    rate: Callable[[int], float],
    log: Callable[..., None],
    progress: Callable[[int, int, str], None],
    stopping: Callable[[], bool],
) -> Fit:
    """`steps` updates at `rate(step)`; fewer where `stopping` turns true, and then none should be kept.

    FloatingPointError names the step at which the loss or its gradient was not finite.
    """
    started = time.monotonic()
    losses: list[float] = []
    recent: deque[float] = deque(maxlen=RECENT)
    num_tokens = 0
    for step, batch in enumerate(islice(batches, steps)):
        if stopping():
            break
        values = _step(trainer, batch, rate(step), step)
        losses.append(values["loss"])
        recent.append(values["loss"])
        num_tokens += int(values["num_tokens"])
        log(step, **values, lr=rate(step), tokens_per_s=num_tokens / (time.monotonic() - started))
        progress(step + 1, steps, "steps")
    return Fit(
        steps=len(losses),
        first_loss=losses[0] if losses else 0.0,
        last_loss=sum(recent) / max(1, len(recent)),
        num_tokens=num_tokens,
        seconds=time.monotonic() - started,
    )


def _step(trainer: Stepper, batch: Sequence[Row], lr: float, step: int) -> dict[str, float]:
    try:
        return trainer.supervised_step(batch, lr=lr)
    except FloatingPointError as error:
        raise FloatingPointError(f"step {step}: {error}") from error
