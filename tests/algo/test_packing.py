"""Which rows share a batch or a sequence."""

import json
import random
import re
import sysconfig
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest

from k15.algo.order import shuffled
from k15.algo.packing import best_fit, blocks, microbatches, packed

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "train.jsonl"
WORD = re.compile(r"\w|[^\w\s]|\s\w+")  # as many pieces as a real tokenizer makes, about


def lengths(number: int, longest: int, seed: int = 0) -> list[int]:
    source = random.Random(seed)
    return [source.randint(1, longest) for _ in range(number)]


def naive_best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Every bin tried for every row."""
    bins: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        rooms = [(capacity - sum(sizes[i] for i in items), number) for number, items in enumerate(bins)]
        fitting = [(room, number) for room, number in rooms if room >= sizes[index]]
        if fitting:
            bins[min(fitting)[1]].append(index)
        else:
            bins.append([index])
    return bins


@pytest.mark.parametrize("seed", range(5))
def test_best_fit_is_the_naive_one(seed: int) -> None:
    sizes = lengths(200, 90, seed)
    assert best_fit(sizes, 100) == naive_best_fit(sizes, 100)


def test_bins_hold_every_row_once_and_no_more_than_they_can() -> None:
    sizes = lengths(3000, 200)
    bins = best_fit(sizes, 512)
    assert sorted(index for items in bins for index in items) == list(range(3000))
    assert max(sum(sizes[index] for index in items) for items in bins) <= 512
    assert sum(sizes) / (512 * len(bins)) > 0.99


def test_a_row_longer_than_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 513 tokens, a sequence 512"):
        best_fit([5, 513], 512)
    assert best_fit([512, 512], 512) == [[0], [1]]


def test_packing_in_windows_loses_no_row_and_little_room() -> None:
    sizes = lengths(5000, 300)
    order = list(islice(shuffled(5000, 0), 5000))
    sequences = list(packed(order, lambda i: sizes[i], 1024, seed="0", window=500))
    assert sorted(index for items in sequences for index in items) == list(range(5000))
    assert max(sum(sizes[index] for index in items) for items in sequences) <= 1024
    assert sum(sizes) / (1024 * len(sequences)) > 0.985
    assert sequences == list(packed(order, lambda i: sizes[i], 1024, seed="0", window=500))
    longest = [max(sizes[index] for index in items) for items in sequences]
    assert sum(longest[:50]) < 1.1 * sum(longest[-50:])  # long rows are not all met first


def test_rows_that_fill_nothing_are_not_held_for_ever() -> None:
    sequences = packed(range(1000), lambda _: 60, 100, seed="0", window=16)
    assert sorted(index for items in sequences for index in items) == list(range(1000))


def fill(sizes: Sequence[int], capacity: int) -> float:
    order = islice(shuffled(len(sizes), 0), len(sizes))
    sequences = list(packed(order, lambda i: sizes[i], capacity, seed="0"))
    assert sorted(index for items in sequences for index in items) == list(range(len(sizes)))
    return sum(sizes) / (capacity * len(sequences))


@pytest.mark.skipif(not GSM8K.is_file(), reason="GSM8K is not beside the checkout")
@pytest.mark.parametrize("capacity", [2048, 4096, 8192])
def test_gsm8k_fills_its_sequences(capacity: int) -> None:
    rows = [json.loads(line) for line in GSM8K.read_text().splitlines()]
    sizes = [len(WORD.findall(row["question"] + row["answer"])) + 2 for row in rows]
    assert fill(sizes, capacity) >= 0.98


@pytest.mark.parametrize("capacity", [1024, 4096])
def test_the_python_library_fills_its_sequences(capacity: int) -> None:
    """Module sources as documents, the longer ones in pieces."""
    sizes = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        size = len(WORD.findall(path.read_text(errors="replace")))
        sizes += [min(capacity, size - start) for start in range(0, size, capacity)]
    assert fill(sizes, capacity) >= 0.98


def test_every_row_is_in_one_batch_within_the_limit() -> None:
    sizes = lengths(300, 200)
    batches = microbatches(sizes, 512)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    assert all(sum(sizes[index] for index in batch) <= 512 for batch in batches)
    assert len(batches) == len(best_fit(sizes, 512))


def test_rows_of_similar_length_share_a_batch_where_that_costs_none() -> None:
    assert microbatches([30, 9, 30, 10, 10, 31], 95) == [[5, 0, 2], [3, 4, 1]]


def test_a_row_is_never_split() -> None:
    with pytest.raises(ValueError, match="row 1 has 513 tokens"):
        microbatches([5, 513], 512)


def test_no_rows_make_no_batches() -> None:
    assert microbatches([], 8) == []
    assert blocks([]) == []
    assert best_fit([], 8) == []
    assert list(packed([], len, 8, seed="0")) == []


def test_blocks_cover_all_rows_and_bound_the_padding() -> None:
    sizes = sorted(lengths(100, 2000, seed=1), reverse=True)
    ranges = blocks(sizes)
    assert [first for first, _ in ranges] == [0, *(last for _, last in ranges[:-1])]
    assert ranges[-1][1] == 100
    for first, last in ranges:
        assert sizes[first] <= max(64, 2 * sizes[last - 1])
