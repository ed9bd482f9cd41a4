"""Learning rates."""

from functools import partial

import pytest

from k15.algo.schedule import DECAYS, course, in_turn, learning_rate

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


def test_parts_follow_each_other_each_with_its_own_course() -> None:
    first = course(4, peak=2e-5, final=2e-6, warmup_steps=0, decay="linear")
    second = course(3, peak=1e-5, final=1e-6, warmup_steps=1, decay="cosine")
    rate = in_turn([first, second])
    assert [rate(step) for step in range(4)] == [first[1](step) for step in range(4)]
    assert [rate(step) for step in range(4, 7)] == [second[1](step) for step in range(3)]
    assert (rate(3), rate(4), rate(6)) == pytest.approx((2e-6, 1e-5, 1e-6))
    with pytest.raises(ValueError, match="step 7 is past"):
        rate(7)
