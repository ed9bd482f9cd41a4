"""Which rows share a batch. Suffix N: rows."""

from collections.abc import Sequence

NARROW = 64  # rows up to this width share a block: padding costs less there than another kernel call


def microbatches(lengths_N: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Every row's index once, in batches of at most `max_tokens` tokens; rows stay whole.

    Rows of similar length come together, longest first; the split depends on the lengths alone.
    ValueError names a row longer than a batch.
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
    return batches


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
