"""Intervals against the normal approximation, and against how often they hold the mean."""

import numpy as np
import pytest

from k15.algo.intervals import mean_interval, paired_interval, runs_interval


def test_interval_matches_the_normal_approximation():
    values = np.random.default_rng(0).normal(2.0, 3.0, 2000).tolist()
    found = mean_interval(values, draws=2000, seed=1)
    half = 1.96 * np.std(values) / np.sqrt(len(values))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.high - found.mean == pytest.approx(half, rel=0.12)
    assert found.mean - found.low == pytest.approx(half, rel=0.12)


def test_pairing_removes_what_prompts_have_in_common():
    generator = np.random.default_rng(0)
    hardness = generator.normal(0, 1, 1000)
    first, second = hardness + 0.1 + generator.normal(0, 0.1, 1000), hardness
    paired = paired_interval(first.tolist(), second.tolist(), draws=500, seed=0)
    assert 0.08 < paired.low < 0.1 < paired.high < 0.12


def test_the_same_seed_gives_the_same_interval():
    assert mean_interval([0.0, 1.0, 1.0], draws=200, seed=4) == mean_interval(
        [0.0, 1.0, 1.0], draws=200, seed=4
    )


def test_no_prompts_is_an_error():
    with pytest.raises(ValueError, match="no prompts"):
        mean_interval([], draws=100, seed=0)


@pytest.mark.parametrize("number", [2, 3, 10])
def test_an_interval_over_runs_holds_the_mean_95_times_in_100(number):
    draws = np.random.default_rng(number).normal(1.0, 2.0, (4000, number))
    held = [found.low <= 1.0 <= found.high for found in map(runs_interval, draws.tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_one_run_has_no_interval():
    with pytest.raises(ValueError, match="2 to 10, and there are 1"):
        runs_interval([1.0])
