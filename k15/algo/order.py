"""In which order examples are trained on: endless streams of indices, the same for the same seed.

A stream is entered at any place by passing over what comes before: indices are cheap, their tokens unread.
"""

import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

DRAWS = 1024  # at a time


def shuffled(num: int, seed: int | str) -> Iterator[int]:
    """0 … num − 1 again and again, each time all of them in a new order."""
    if num < 1:
        raise ValueError("there is nothing to train on: the table is empty")
    source = random.Random(seed)
    order = array("q", range(num))
    while True:
        source.shuffle(order)
        yield from order


def natural(sizes: Mapping[str, int], seed: int | str) -> Iterator[tuple[str, int]]:
    """(domain, index) of every example of every domain, each once an epoch, whatever its domain."""
    names = list(sizes)
    ends = list(accumulate(sizes.values()))
    for place in shuffled(ends[-1] if ends else 0, seed):
        number = bisect_right(ends, place)
        yield names[number], place - (ends[number] - sizes[names[number]])


def mixed(
    streams: Mapping[str, Iterator[int]], weights: Mapping[str, float], seed: int | str
) -> Iterator[tuple[str, int]]:
    """(domain, index): each time a domain drawn with probability ∝ its weight, and the next of its stream."""
    names = list(weights)
    for number in drawn([weights[name] for name in names], seed):
        yield names[number], next(streams[names[number]])


def drawn(weights: Sequence[float], seed: int | str) -> Iterator[int]:
    """Indices drawn with replacement, with probability ∝ weight."""
    source = random.Random(seed)
    cumulative = list(accumulate(weights))
    if not cumulative or cumulative[-1] <= 0:
        raise ValueError("nothing to draw from: no weight is above 0")
    while True:
        yield from source.choices(range(len(cumulative)), cum_weights=cumulative, k=DRAWS)
