"""Learning rates."""

from functools import partial

import pytest

from k15.algo.schedule import DECAYS, Course, in_turn, learning_rate

RATE = partial(learning_rate, steps=100, peak=1.0, final=0.1, warmup_steps=10)


@pytest.mark.parametrize("decay", sorted(DECAYS))
def test_warms_up_to_the_peak_and_never_starts_at_zero(decay: str) -> None:
    values = [RATE(step, decay=decay) for step in range(10)]
    assert values == pytest.approx([0.1 * n for n in range(1, 11)])


@pytest.mark.parametrize(("decay", "last"), [("cosine", 0.1), ("linear", 0.1), ("constant", 1.0)])
def test_falls_to_the_final_rate_at_the_last_step(decay: str, last: float) -> None:
    values = [RATE(step, decay=decay) for step in range(9, 100)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(last)


def test_cosine_and_linear_meet_half_way() -> None:
    assert RATE(54, decay="cosine") == pytest.approx(RATE(54, decay="linear"))


def test_a_warmup_longer_than_the_run_is_fine() -> None:
    assert learning_rate(2, steps=3, peak=1.0, final=0.0, warmup_steps=20, decay="cosine") == pytest.approx(
        0.15
    )


def test_unknown_decay_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule 'step': use one of constant, cosine, linear"):
        RATE(50, decay="step")


@pytest.mark.parametrize("warmup_steps", [0, 1])
def test_without_a_warmup_it_starts_at_the_peak(warmup_steps: int) -> None:
    def rates(steps: int) -> list[float]:
        return [
            learning_rate(step, steps=steps, peak=1.0, final=0.1, warmup_steps=warmup_steps, decay="linear")
            for step in range(steps)
        ]

    assert rates(4) == pytest.approx([1.0, 0.7, 0.4, 0.1])
    assert rates(1) == [1.0]


def test_courses_follow_each_other_and_warm_up_from_where_the_last_one_ended() -> None:
    first = Course(4, peak=2e-5, final=2e-6, warmup_steps=2, decay="linear")
    second = Course(5, peak=1e-5, final=1e-6, warmup_steps=2, decay="linear")
    third = Course(2, peak=1e-5, final=1e-6, warmup_steps=0, decay="constant")
    rate = in_turn([first, second, third])
    expected = [1e-5, 2e-5, 1.1e-5, 2e-6, 6e-6, 1e-5, 7e-6, 4e-6, 1e-6, 1e-5, 1e-5]
    assert [rate(step) for step in range(11)] == pytest.approx(expected)
    with pytest.raises(ValueError, match="step 11 is past"):
        rate(11)
