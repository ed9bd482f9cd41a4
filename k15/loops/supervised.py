"""Fitting tokens: the same loop for pretraining, activation, SFT and long-CoT SFT."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, Self

from k15.loops.stream import Batch
from k15.records import Sequence as Row

RECENT = 20  # steps whose mean loss stands for where a run ended
SAVE_EVERY_S = 300.0
SAVE_SPACING = (
    20  # times the last save's duration until the next: saving takes at most a twentieth of the time
)

logger = logging.getLogger("k15.supervised")


class Stepper(Protocol):
    """What the loop needs of ports.Trainer."""

    def supervised_step(self, batch: Sequence[Row], *, lr: float) -> dict[str, float]:
        """One update; its loss, gradient_norm and num_tokens."""

    def logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """For each row the log-probs of its loss tokens."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How far a run is: what a checkpoint keeps of it beside the trainer's state."""

    steps: int = 0  # updates made; fewer than asked for where it was stopped
    first_loss: float = 0.0
    recent: tuple[float, ...] = ()  # losses of the last RECENT steps
    num_tokens: int = 0
    seconds: float = 0.0  # spent on steps, by all processes that made them
    heldout_loss: float | None = None  # as last evaluated

    @property
    def last_loss(self) -> float:
        """Mean of the last RECENT steps."""
        return sum(self.recent) / max(1, len(self.recent))

    def after(self, values: dict[str, float], seconds: float) -> "Fit":
        """The same one step later."""
        return replace(
            self,
            steps=self.steps + 1,
            first_loss=self.first_loss if self.steps else values["loss"],
            recent=(*self.recent, values["loss"])[-RECENT:],
            num_tokens=self.num_tokens + int(values["num_tokens"]),
            seconds=self.seconds + seconds,
        )

    def summary(self) -> dict[str, float]:
        """What the run did, as flat numbers."""
        heldout = {} if self.heldout_loss is None else {"heldout_loss": self.heldout_loss}
        return heldout | {
            "steps": float(self.steps),
            "first_loss": self.first_loss,
            "loss": self.last_loss,
            "num_tokens": float(self.num_tokens),
            "tokens_per_s": self.num_tokens / max(self.seconds, 1e-9),
        }

    def encoded(self) -> dict[str, Any]:
        """As JSON values, exactly."""
        return asdict(self) | {"recent": list(self.recent)}

    @classmethod
    def decoded(cls, values: dict[str, Any]) -> Self:
        """The inverse of `encoded`; ValueError where `values` are not from there."""
        try:
            return cls(**values | {"recent": tuple(values["recent"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the state of a supervised run ({error}): {sorted(values)}") from None


@dataclass
class Saver:
    """Calls `save` every `every_steps` updates, or where that is 0 by the clock.

    By the clock that is every SAVE_EVERY_S seconds, or SAVE_SPACING times what the last save took where that
    is longer: training waits for a save, and a large model's takes minutes.
    """

    save: Callable[[Fit], None]
    every_steps: int = 0
    clock: Callable[[], float] = time.monotonic
    _spacing_s: float = SAVE_EVERY_S
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = self.clock()

    def after(self, done: Fit, *, ended: bool) -> None:
        """Save where it is due, or where the run was told to end."""
        started = self.clock()
        by_time = started - self._last >= self._spacing_s
        due = done.steps % self.every_steps == 0 if self.every_steps else by_time
        if due or ended:
            self.save(done)
            self._last = self.clock()
            took_s = self._last - started
            self._spacing_s = max(SAVE_EVERY_S, SAVE_SPACING * took_s)
            rhythm = f"{self.every_steps} steps" if self.every_steps else f"{self._spacing_s:.0f} s"
            logger.info("saved step=%d seconds=%.1f next_after=%s", done.steps, took_s, rhythm)


@dataclass(frozen=True, slots=True)
class Heldout:
    """Rows that are never trained on, and how often their loss is taken; after the last step always."""

    rows: Sequence[Row]
    every_steps: int

    def __post_init__(self) -> None:
        if self.every_steps < 1 or not any(any(row.in_loss) for row in self.rows):
            raise ValueError(
                f"held-out rows are {len(self.rows)} every {self.every_steps} steps: give one or more "
                "with tokens in the loss, every one or more steps"
            )

    def is_due(self, done: int, steps: int) -> bool:
        """Whether to evaluate after `done` of `steps` updates."""
        return done % self.every_steps == 0 or done == steps

    def loss(self, trainer: Stepper, step: int) -> float:
        """Mean cross-entropy per loss token under the weights now; FloatingPointError where not finite."""
        taken = [value for row in trainer.logprobs(self.rows) for value in row]
        value = -math.fsum(taken) / len(taken)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"after step {step}: the held-out loss is {value}; the weights are spoilt"
            )
        return value


def fit(
    trainer: Stepper,
    batches: Callable[[int], Iterator[Batch]],
    *,
    steps: int,
    rate: Callable[[int], float],
    log: Callable[..., None],
    progress: Callable[[int, int, str], None],
    stopping: Callable[[], bool],
    done: Fit = Fit(),
    saver: Saver | None = None,
    heldout: Heldout | None = None,
    mfu: Callable[[Sequence[Row], float], float] | None = None,
) -> Fit:
    """Updates at `rate(step)` on `batches(step)`, from where `done` is to `steps`; returns how far it came.

    Where `stopping` turns true it ends after the step at hand, saved. `mfu` takes rows and the seconds they
    took. FloatingPointError names the step and the examples whose loss or gradient was not finite: nothing
    is saved of it. ValueError where the data end before the steps.
    """
    stream = batches(done.steps)
    ended = stopping()
    while done.steps < steps and not ended:
        started = time.monotonic()
        batch = _next(stream, done.steps, steps)
        lr = rate(done.steps)
        figures = _step(trainer, batch, lr, done.steps)
        seconds = time.monotonic() - started
        done = done.after(figures, seconds)
        figures |= {"lr": lr, "tokens_per_s": figures["num_tokens"] / max(seconds, 1e-9)}
        if mfu is not None:
            figures["mfu"] = mfu(batch.rows, seconds)
        if heldout is not None and heldout.is_due(done.steps, steps):
            figures["heldout_loss"] = loss = heldout.loss(trainer, done.steps)
            done = replace(done, heldout_loss=loss)
        log(done.steps - 1, **figures)
        progress(done.steps, steps, "steps")
        ended = stopping()
        if saver is not None and done.steps < steps:
            saver.after(done, ended=ended)
    return done


def _next(stream: Iterator[Batch], step: int, steps: int) -> Batch:
    batch = next(stream, None)
    if batch is None:
        raise ValueError(f"the data end after step {step} of {steps}; ask for fewer steps or give more data")
    return batch


def _step(trainer: Stepper, batch: Batch, lr: float, step: int) -> dict[str, float]:
    try:
        return dict(trainer.supervised_step(batch.rows, lr=lr))
    except FloatingPointError as error:
        raise FloatingPointError(f"step {step}: {error}; examples {', '.join(batch.ids)}") from error
