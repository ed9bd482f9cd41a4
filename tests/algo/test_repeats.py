"""The detector of loops against a naive one, at every token and in pieces of any size."""

import random
from collections.abc import Sequence

import pytest

from k15.algo.repeats import COPIES, MIN_TOKENS, Repeats


def naive(tokens: Sequence[int], max_period: int) -> tuple[int, int]:
    """(num_tokens, period) of the first loop: every lag is looked at, at every token. (0, 0) without one."""
    for end in range(1, len(tokens) + 1):
        for lag in range(1, max_period + 1):
            matches = 0
            while matches + lag < end and tokens[end - 1 - matches] == tokens[end - 1 - matches - lag]:
                matches += 1
            if matches + lag >= max(COPIES * lag, MIN_TOKENS):
                return end, lag
    return 0, 0


def found(tokens: Sequence[int], max_period: int, sizes: Sequence[int] = (1,)) -> tuple[int, int]:
    """The same by Repeats, fed pieces of these sizes in turn."""
    repeats, place, turn = Repeats(max_period=max_period), 0, 0
    while place < len(tokens):
        size = sizes[turn % len(sizes)]
        if repeats.feed(tokens[place : place + size]):
            return repeats.num_tokens, repeats.period
        place, turn = place + size, turn + 1
    return 0, 0


def restless(source: random.Random) -> list[int]:
    """Noise and blocks said again and again, from a small alphabet."""
    alphabet = source.choice([1, 2, 3, 20, 70_000])
    tokens: list[int] = []
    while len(tokens) < 220:
        block = [source.randrange(alphabet) for _ in range(source.randint(1, 25))]
        tokens += block * source.choice([1, 1, 2, 3, 5])
    return tokens


def test_loops_are_called_where_the_definition_has_them() -> None:
    source, loops = random.Random(0), 0
    for _ in range(150):
        tokens, max_period = restless(source), source.choice([1, 2, 7, 30])
        expected = naive(tokens, max_period)
        assert found(tokens, max_period, [source.randint(1, 9) for _ in range(5)]) == expected
        loops += expected != (0, 0)
    assert 40 < loops < 110


@pytest.mark.parametrize("period", [1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 100, 255, 256])
def test_a_loop_of_any_period_is_called_once_it_is_long_enough(period: int) -> None:
    source = random.Random(period)
    before = [source.randrange(1000) for _ in range(37)]
    block = [1000 + (n if n < 3 else source.randrange(5)) for n in range(period)]
    tokens = before + block * 80
    assert found(tokens, 256) == (37 + max(COPIES * period, MIN_TOKENS), period)


def test_a_loop_longer_than_asked_for_passes() -> None:
    assert found(list(range(100)) * 9, 99) == (0, 0)


def test_one_token_less_passes_and_a_token_in_between_starts_it_anew() -> None:
    enough = max(COPIES * 20, MIN_TOKENS)
    loop = list(range(20)) * 9
    assert found(loop[: enough - 1], 64) == (0, 0)
    assert found([*loop[: enough - 1], 99, *loop[:enough]], 64) == (enough - 1 + 1 + enough, 20)


def test_a_response_that_is_continued_is_seen_whole() -> None:
    tokens = [7] * MIN_TOKENS
    later = Repeats(max_period=8)
    assert not later.feed(tokens[:40])
    assert later.feed(tokens[40:])


def test_nothing_is_taken_after_a_loop_was_called() -> None:
    repeats = Repeats(max_period=4)
    assert repeats.feed([3] * 500)
    assert repeats.feed([4, 5, 6])
    assert (repeats.num_tokens, repeats.period) == (MIN_TOKENS, 1)


def test_a_long_response_is_forgotten_as_it_goes_on() -> None:
    source = random.Random(1)
    repeats = Repeats(max_period=16)
    assert not repeats.feed([source.randrange(50) for _ in range(20_000)])
    assert len(repeats._tokens) < 200
    assert repeats.feed(list(range(16)) * 5)
    assert repeats.period == 16


def test_0_watches_nothing_and_less_is_refused() -> None:
    assert not Repeats(max_period=0).feed([1] * 1000)
    with pytest.raises(ValueError, match="max_period is -1"):
        Repeats(max_period=-1)
