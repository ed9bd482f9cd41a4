"""Which rows share a batch."""

import random

import pytest

from k15.algo.packing import blocks, microbatches


def test_every_row_is_in_one_batch_within_the_limit() -> None:
    source = random.Random(0)
    lengths = [source.randint(1, 200) for _ in range(300)]
    batches = microbatches(lengths, 512)
    assert sorted(index for batch in batches for index in batch) == list(range(300))
    assert all(sum(lengths[index] for index in batch) <= 512 for batch in batches)
    assert len(batches) <= 1.2 * sum(lengths) / 512 + 1


def test_a_row_is_never_split() -> None:
    with pytest.raises(ValueError, match="row 1 has 513 tokens"):
        microbatches([5, 513], 512)


def test_no_rows_make_no_batches() -> None:
    assert microbatches([], 8) == []
    assert blocks([]) == []


def test_blocks_cover_all_rows_and_bound_the_padding() -> None:
    source = random.Random(1)
    lengths = sorted((source.randint(1, 2000) for _ in range(100)), reverse=True)
    ranges = blocks(lengths)
    assert [first for first, _ in ranges] == [0, *(last for _, last in ranges[:-1])]
    assert ranges[-1][1] == 100
    for first, last in ranges:
        assert lengths[first] <= max(64, 2 * lengths[last - 1])
