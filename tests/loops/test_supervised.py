"""The supervised loop, without an engine."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import pytest

from k15.algo.order import shuffled
from k15.loops.stream import Batch
from k15.loops.supervised import RECENT, Fit, Heldout, Saver, fit
from k15.records import Sequence as Row

ROWS = [Row((n, n), (False, True)) for n in range(10)]
START = Fit()


class Recorder:
    """A trainer that keeps what it is given, and whose loss falls, or is not finite at one step."""

    def __init__(self, bad_step: int = -1, made: int = 0) -> None:
        self.batches: list[list[int]] = []
        self.rates: list[float] = []
        self.bad_step = bad_step
        self.made = made

    def supervised_step(self, batch: Sequence[Row], *, lr: float) -> dict[str, float]:
        if self.made == self.bad_step:
            raise FloatingPointError("the loss is nan")
        self.made += 1
        self.batches.append([row.token_ids[0] for row in batch])
        self.rates.append(lr)
        return {"loss": 10.0 - self.made, "gradient_norm": 1.0, "num_tokens": 4.0}

    def logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        return [[-float(self.made)] * sum(row.in_loss) for row in rows]


class Spoilt(Recorder):
    """A trainer whose weights are no numbers any more."""

    def logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        return [[float("nan")] * sum(row.in_loss) for row in rows]


def batches(start: int) -> Iterator[Batch]:
    """Four of the rows a step, from step `start` on."""
    places = islice(shuffled(10, 0), start * 4, None)
    while True:
        some = list(islice(places, 4))
        yield Batch(tuple(ROWS[place] for place in some), tuple(map(str, some)))


def run(
    trainer: Recorder,
    steps: int,
    *,
    done: Fit = START,
    saver: Saver | None = None,
    heldout: Heldout | None = None,
    mfu: Callable[[Sequence[Row], float], float] | None = None,
    stop_after: int = 99,
) -> tuple[Fit, list[dict[str, float]]]:
    logged: list[dict[str, float]] = []
    ended = fit(
        trainer,
        batches,
        steps=steps,
        rate=lambda step: float(step),
        log=lambda step, **values: logged.append({"step": step, **values}),
        progress=lambda *_: None,
        stopping=lambda: len(trainer.batches) >= stop_after,
        done=done,
        saver=saver,
        heldout=heldout,
        mfu=mfu,
    )
    return ended, logged


def test_steps_rates_and_metrics() -> None:
    trainer = Recorder()
    done, logged = run(trainer, 5)
    assert trainer.rates == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [row["loss"] for row in logged] == [9.0, 8.0, 7.0, 6.0, 5.0]
    assert (done.steps, done.first_loss, done.last_loss, done.num_tokens) == (5, 9.0, 7.0, 20)
    names = {"step", "loss", "gradient_norm", "num_tokens", "lr", "tokens_per_s"}
    assert {name for row in logged for name in row} == names
    assert done.seconds == pytest.approx(sum(4.0 / row["tokens_per_s"] for row in logged))


@pytest.mark.parametrize("at", [1, 7, 29])
def test_going_on_from_what_was_saved_is_not_to_be_told_from_never_stopping(at: int) -> None:
    whole = Recorder()
    done, logged = run(whole, 30)
    saved: list[str] = []
    stopped = Recorder()
    run(stopped, 30, stop_after=at, saver=Saver(lambda done: saved.append(json.dumps(done.encoded()))))
    resumed = Recorder(made=at)
    again, rest = run(resumed, 30, done=Fit.decoded(json.loads(saved[-1])))
    assert stopped.batches + resumed.batches == whole.batches
    assert resumed.rates == whole.rates[at:]
    assert [row["step"] for row in rest] == list(range(at, 30))
    assert again.recent == done.recent == tuple(10.0 - step for step in range(31 - RECENT, 31))
    for name, value in done.summary().items():
        assert name == "tokens_per_s" or again.summary()[name] == value


def test_saves_every_so_many_steps_but_not_the_last_one() -> None:
    saved: list[int] = []
    run(Recorder(), 9, saver=Saver(lambda done: saved.append(done.steps), every_steps=3))
    assert saved == [3, 6]


class Timed(Recorder):
    """A trainer whose steps take 100 s each of a clock of its own; a save takes as long as it is told."""

    def __init__(self, save_s: float) -> None:
        super().__init__()
        self.now = 0.0
        self.save_s = save_s
        self.saved: list[int] = []

    def supervised_step(self, batch: Sequence[Row], *, lr: float) -> dict[str, float]:
        self.now += 100.0
        return super().supervised_step(batch, lr=lr)

    def save(self, done: Fit) -> None:
        self.now += self.save_s
        self.saved.append(done.steps)

    def saver(self, every_steps: int = 0) -> Saver:
        return Saver(self.save, every_steps, clock=lambda: self.now)


def test_saves_every_300_s_where_no_number_of_steps_is_given() -> None:
    trainer = Timed(save_s=1.0)
    run(trainer, 10, saver=trainer.saver())
    assert trainer.saved == [3, 6, 9]


def test_a_save_that_takes_long_is_followed_by_20_times_as_long_without_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = Timed(save_s=60.0)
    with caplog.at_level("INFO"):
        run(trainer, 28, saver=trainer.saver())
    assert trainer.saved == [3, 15, 27]
    assert caplog.messages[0] == "saved step=3 seconds=60.0 next_after=1200 s"


def test_a_number_of_steps_is_kept_to_however_long_a_save_takes() -> None:
    trainer = Timed(save_s=600.0)
    run(trainer, 7, saver=trainer.saver(every_steps=2))
    assert trainer.saved == [2, 4, 6]


def test_stops_between_steps_and_saves_the_one_it_made() -> None:
    saved: list[int] = []
    done, _ = run(Recorder(), 5, stop_after=2, saver=Saver(lambda done: saved.append(done.steps)))
    assert (done.steps, saved) == (2, [2])
    done, _ = run(Recorder(), 5, stop_after=0)
    assert done.steps == 0


def test_a_loss_that_is_not_finite_names_step_and_examples_and_saves_nothing() -> None:
    saved: list[int] = []
    bad = [str(n) for n in list(islice(shuffled(10, 0), 16))[12:]]
    with pytest.raises(FloatingPointError, match=f"step 3: the loss is nan; examples {', '.join(bad)}$"):
        run(Recorder(bad_step=3), 5, saver=Saver(lambda done: saved.append(done.steps), every_steps=1))
    assert saved == [1, 2, 3]


def test_the_held_out_loss_is_taken_now_and_then_and_at_the_end() -> None:
    rows = [Row((1, 2, 3), (False, True, True)), Row((1, 2), (False, True))]
    done, logged = run(Recorder(), 5, heldout=Heldout(rows, 2))
    assert {row["step"]: row["heldout_loss"] for row in logged if "heldout_loss" in row} == {1: 2, 3: 4, 4: 5}
    assert done.summary()["heldout_loss"] == 5.0
    with pytest.raises(FloatingPointError, match="after step 1: the held-out loss is nan"):
        run(Spoilt(), 5, heldout=Heldout(rows, 1))


def test_nothing_held_out_is_refused_before_any_step() -> None:
    for rows, every in (([], 1), ([Row((1, 2), (False, False))], 1), (ROWS, 0)):
        with pytest.raises(ValueError, match="give one or more with tokens in the loss"):
            Heldout(rows, every)


def test_mfu_is_logged_where_it_can_be_known() -> None:
    _, logged = run(Recorder(), 2, mfu=lambda rows, seconds: len(rows) / 8 + 0 * seconds)
    assert [row["mfu"] for row in logged] == [0.5, 0.5]


def test_data_that_end_before_the_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="the data end after step 2 of 5"):
        fit(
            Recorder(),
            lambda start: islice(batches(start), 2 - start),
            steps=5,
            rate=float,
            log=lambda step, **_: None,
            progress=lambda *_: None,
            stopping=lambda: False,
        )


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="not the state of a supervised run"):
        Fit.decoded({"total": 3})
