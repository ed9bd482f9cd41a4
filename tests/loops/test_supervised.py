"""The supervised loop, without an engine."""

from collections.abc import Sequence
from itertools import islice

import pytest

from k15.loops.supervised import Fit, batches, fit, shuffled
from k15.records import Sequence as Row

ROWS = [Row((n, n), (False, True)) for n in range(10)]


class Recorder:
    """A trainer that keeps what it is given, and whose loss falls, or is not finite at one step."""

    def __init__(self, bad_step: int = -1) -> None:
        self.batches: list[list[int]] = []
        self.rates: list[float] = []
        self.bad_step = bad_step

    def supervised_step(self, batch: Sequence[Row], *, lr: float) -> dict[str, float]:
        if len(self.batches) == self.bad_step:
            raise FloatingPointError("the loss is nan")
        self.batches.append([row.token_ids[0] for row in batch])
        self.rates.append(lr)
        return {"loss": 10.0 - len(self.batches), "gradient_norm": 1.0, "num_tokens": 4.0}


def run(
    trainer: Recorder, steps: int, *, seed: int = 0, stop_after: int = 99
) -> tuple[Fit, list[dict[str, float]]]:
    logged: list[dict[str, float]] = []
    done = fit(
        trainer,
        batches(ROWS, 4, seed),
        steps=steps,
        rate=lambda step: float(step),
        log=lambda step, **values: logged.append({"step": step, **values}),
        progress=lambda *_: None,
        stopping=lambda: len(trainer.batches) >= stop_after,
    )
    return done, logged


def test_every_row_once_an_epoch_in_a_seeded_order() -> None:
    first = list(islice(shuffled(range(10), 3), 20))
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10))
    assert first[:10] != first[10:]
    assert first == list(islice(shuffled(range(10), 3), 20))
    assert first != list(islice(shuffled(range(10), 4), 20))


def test_steps_rates_and_metrics() -> None:
    trainer = Recorder()
    done, logged = run(trainer, 5)
    assert trainer.rates == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [row["loss"] for row in logged] == [9.0, 8.0, 7.0, 6.0, 5.0]
    assert (done.steps, done.first_loss, done.last_loss, done.num_tokens) == (5, 9.0, 7.0, 20)


def test_stops_between_steps() -> None:
    done, _ = run(Recorder(), 5, stop_after=2)
    assert done.steps == 2


def test_a_loss_that_is_not_finite_names_the_step() -> None:
    with pytest.raises(FloatingPointError, match="step 3: the loss is nan"):
        run(Recorder(bad_step=3), 5)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        next(batches([], 4, 0))
