"""In which order examples are trained on."""

import random
from collections import Counter
from itertools import islice

import pytest

from k15.algo.order import drawn, mixed, natural, shuffled


def test_every_example_once_an_epoch_in_a_seeded_order() -> None:
    first = list(islice(shuffled(10, 3), 20))
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10))
    assert first[:10] != first[10:]
    assert first == list(islice(shuffled(10, 3), 20))
    assert first != list(islice(shuffled(10, 4), 20))


def test_the_order_is_that_of_shuffling_a_list_again_and_again() -> None:
    source, order, expected = random.Random(7), list(range(50)), []
    for _ in range(3):
        source.shuffle(order)
        expected += order
    assert list(islice(shuffled(50, 7), 150)) == expected


def test_all_data_sets_together_are_one_epoch() -> None:
    sizes = {"a": 3, "b": 1, "c": 6}
    epoch = list(islice(natural(sizes, 0), 10))
    assert sorted(epoch) == sorted((name, place) for name, size in sizes.items() for place in range(size))
    assert epoch != sorted(epoch)


def test_a_mixture_draws_by_weight_and_takes_each_data_set_in_its_own_order() -> None:
    streams = {"a": shuffled(5, "a"), "b": shuffled(1000, "b")}
    taken = list(islice(mixed(streams, {"a": 3.0, "b": 1.0}, "mix"), 8000))
    counts = Counter(name for name, _ in taken)
    assert abs(counts["a"] / 8000 - 0.75) < 4 * (0.75 * 0.25 / 8000) ** 0.5
    for name, size in (("a", 5), ("b", 1000)):
        places = [place for at, place in taken if at == name]
        assert places == list(islice(shuffled(size, name), len(places)))


def test_draws_follow_their_weights() -> None:
    counts = Counter(islice(drawn([1.0, 0.0, 4.0], 0), 10_000))
    assert counts[1] == 0
    assert abs(counts[2] / 10_000 - 0.8) < 0.02


@pytest.mark.parametrize("stream", [shuffled(0, 0), natural({}, 0)])
def test_nothing_is_refused(stream: object) -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        next(stream)  # type: ignore[call-overload]


def test_weights_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no weight is above 0"):
        next(drawn([0.0, 0.0], 0))
