"""Rows on disk, and rows made of longer ones."""

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from k15.records import Sequence as Row
from k15.tasks.row_file import Origin, RowFile
from k15.tasks.rows import Tokens, everything_in_loss, refuse_longer, split
from tests.flagged import flagged

pytestmark = pytest.mark.engine


def some_rows(number: int) -> list[Row]:
    source = random.Random(0)
    rows = []
    for _ in range(number):
        size = source.randint(2, 30)
        tokens = tuple(source.randrange(200_000) for _ in range(size))
        rows.append(Row(tokens, (False, *(source.random() < 0.5 for _ in range(size - 1)))))
    return rows


def placed(rows: list[Row]) -> Iterator[tuple[Origin, Tokens]]:
    """As rows 0, 1, … of a table."""
    return ((Origin("t.parquet", number, 0), flagged(row)) for number, row in enumerate(rows))


def test_a_row_is_named_by_where_it_was_read(tmp_path: Path) -> None:
    row = flagged(everything_in_loss(range(20)))
    given = [(Origin("a.parquet", 7, 0), row), (Origin("b.parquet", 0, 19), row), (Origin("", 3, 0), row)]
    file = RowFile.write(tmp_path / "rows", given, where="here")
    names = [file.name(index, 2, 5) for index in range(3)]
    assert names == ["a.parquet row 7 tokens 2:5", "b.parquet row 0 tokens 21:24", "row 3 tokens 2:5"]


def test_every_row_comes_back(tmp_path: Path) -> None:
    rows = some_rows(100)
    file = RowFile.write(tmp_path / "rows", placed(rows), where="here")
    assert [file.row(index) for index in range(len(file))] == rows
    assert list(file.lengths) == [len(row.token_ids) for row in rows]
    assert file.num_tokens == sum(file.lengths) == (tmp_path / "rows").stat().st_size // 4


def test_part_of_a_row_is_a_row(tmp_path: Path) -> None:
    (row,) = rows = [everything_in_loss(range(20))]
    file = RowFile.write(tmp_path / "rows", placed(rows), where="here")
    assert file.row(0, 5, 9) == Row((5, 6, 7, 8), (False, True, True, True))
    assert file.token_ids(0, 5, 9) == [5, 6, 7, 8]
    assert file.row(0, 0, 20) == row


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="here: there is nothing to train on"):
        RowFile.write(tmp_path / "rows", [], where="here")


@pytest.mark.parametrize(("size", "limit"), [(2, 8), (8, 8), (9, 8), (15, 8), (16, 8), (100, 8)])
def test_pieces_of_a_row_overlap_by_a_token_and_predict_each_other_token_once(size: int, limit: int) -> None:
    pieces = list(split(flagged(everything_in_loss(range(size))), limit))
    predicted = [token >> 1 for piece in pieces for token in piece.tolist() if token & 1]
    assert predicted == list(range(1, size))
    assert max(map(len, pieces)) <= limit
    for before, after in pairwise(pieces):
        assert before[-1] >> 1 == after[0] >> 1


def test_longer_rows_are_refused_with_what_would_fit() -> None:
    refuse_longer([5, 8], 8, where="data")
    with pytest.raises(
        ValueError, match=r"data: 2 of 3 rows have more than max_tokens=8 .*\(the longest 12\)"
    ):
        refuse_longer([9, 8, 12], 8, where="data")
