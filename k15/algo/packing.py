"""Which rows share a batch, and which share a sequence. Suffix N: rows."""

import random
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

NARROW = 64  # rows up to this width share a block: padding costs less there than another kernel call
WINDOW = 8192  # examples looked at together: more fill sequences better, and are held longer
FULL = 0.98  # of a sequence's tokens: one with fewer waits for the next window

T = TypeVar("T")


def best_fit(lengths_N: Sequence[int], capacity: int) -> list[list[int]]:
    """Every row's index once, in bins of at most `capacity` tokens; rows stay whole (best-fit decreasing).

    Longest first, each goes where it leaves the least room (Johnson 1974: at most 11/9 of the fewest bins,
    plus 4). The bins depend on the lengths alone. ValueError names a row longer than a bin.
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens free, bin), sorted; full bins are not in it
    for index in sorted(range(len(lengths_N)), key=lambda index: -lengths_N[index]):
        length = lengths_N[index]
        if length > capacity:
            raise ValueError(f"row {index} has {length} tokens, a sequence {capacity}, and rows stay whole")
        place = bisect_left(rooms, (length, -1))
        if place == len(rooms):
            room, number = capacity, len(bins)
            bins.append([])
        else:
            room, number = rooms.pop(place)
        bins[number].append(index)
        if room > length:
            insort(rooms, (room - length, number))
    return bins


def packed(
    examples: Iterable[T], length_of: Callable[[T], int], capacity: int, *, seed: str, window: int = WINDOW
) -> Iterator[list[T]]:
    """Every example once, in lists of at most `capacity` tokens: best fit among `window` examples at a time.

    Lists come in an order drawn from `seed`, so that long examples are not all met first. Those under FULL
    wait for the next window, as long as they are not half of it; the last window leaves none.
    """
    source = iter(examples)
    held: list[T] = []
    number = 0
    last = False
    while not last:
        wanted = window - len(held)
        taken = list(islice(source, wanted))
        last = len(taken) < wanted
        held += taken
        bins = [[held[i] for i in indices] for indices in best_fit([*map(length_of, held)], capacity)]
        ready, held = (bins, []) if last else _held_back(bins, length_of, capacity, window // 2)
        random.Random(f"{seed}/{number}").shuffle(ready)
        yield from ready
        number += 1


def _held_back(
    bins: list[list[T]], length_of: Callable[[T], int], capacity: int, most: int
) -> tuple[list[list[T]], list[T]]:
    """The bins that are full, and the examples (`most` of them) of the emptiest of the others."""
    by_fill = sorted(bins, key=lambda items: sum(map(length_of, items)))
    held: list[T] = []
    for place, items in enumerate(by_fill):
        if sum(map(length_of, items)) >= FULL * capacity or len(held) + len(items) > most:
            return by_fill[place:], held
        held += items
    return [], held


def microbatches(lengths_N: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Every row's index once, in batches of at most `max_tokens` tokens; rows stay whole.

    Rows of similar length come together, longest first, where that takes no more batches than best fit;
    the split depends on the lengths alone. ValueError names a row longer than a batch.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths_N)), key=lambda index: -lengths_N[index]):
        length = lengths_N[index]
        if length > max_tokens:
            raise ValueError(
                f"row {index} has {length} tokens and is never split; "
                f"raise max_tokens_per_microbatch={max_tokens}"
            )
        if not batches or length > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(index)
        room -= length
    if len(batches) < 2:
        return batches
    return min(batches, best_fit(lengths_N, max_tokens), key=len)


def blocks(lengths_N: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges [first, last) of rows, sorted longest first, that are cheap to pad to their first's width."""
    ranges: list[tuple[int, int]] = []
    first = 0
    for index, length in enumerate(lengths_N):
        width = lengths_N[first]
        if width > NARROW and 2 * length < width:
            ranges.append((first, index))
            first = index
    if lengths_N:
        ranges.append((first, len(lengths_N)))
    return ranges
