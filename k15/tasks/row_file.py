"""Rows to train on in a local file: a table of any size is read without being held in memory."""

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from k15.records import Sequence as Row
from k15.tasks.rows import Tokens


class Origin(NamedTuple):
    """Where a row was read: the row of a table, and the first of its tokens."""

    table: str  # "" where the input is a lone file
    row: int
    start: int


class RowFile:
    """Rows by index. Tokens stay on disk (4 bytes each, as rows.Tokens), lengths do not."""

    def __init__(self, path: Path, lengths: "array[int]", tables: list[str], origins: "array[int]") -> None:
        self.lengths = lengths
        self._tables = tables
        self._origins = origins  # of each row its table's place in `tables`, row and start
        self._starts = np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))])
        self._tokens = np.memmap(path, np.int32, mode="r")

    @classmethod
    def write(cls, path: Path, rows: Iterable[tuple[Origin, Tokens]], *, where: str) -> Self:
        """Put rows into a new file, one by one; ValueError names `where` if there are none."""
        lengths, origins = array("q"), array("q")
        tables: dict[str, int] = {}
        with path.open("wb") as sink:
            for origin, tokens in rows:
                origins.extend((tables.setdefault(origin.table, len(tables)), origin.row, origin.start))
                sink.write(tokens.tobytes())
                lengths.append(len(tokens))
        if not lengths:
            raise ValueError(f"{where}: there is nothing to train on: the table is empty")
        return cls(path, lengths, list(tables), origins)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Of all rows."""
        return int(self._starts[-1])

    def name(self, index: int, start: int, stop: int) -> str:
        """Where tokens [start, stop) of a row were read, for whoever looks for them."""
        table, row, first = self._origins[3 * index : 3 * index + 3]
        return f"{self._tables[table]} row {row} tokens {first + start}:{first + stop}".lstrip()

    def token_ids(self, index: int, start: int, stop: int) -> list[int]:
        """Tokens [start, stop) of a row."""
        ids: list[int] = (self._slice(index, start, stop) >> 1).tolist()
        return ids

    def row(self, index: int, start: int = 0, stop: int | None = None) -> Row:
        """A row, or tokens [start, stop) of it as one; its first token is never in the loss."""
        flagged = self._slice(index, start, self.lengths[index] if stop is None else stop)
        in_loss = (flagged & 1).astype(bool)
        in_loss[0] = False
        return Row(tuple((flagged >> 1).tolist()), tuple(in_loss.tolist()))

    def _slice(self, index: int, start: int, stop: int) -> Tokens:
        first = int(self._starts[index])
        return np.asarray(self._tokens[first + start : first + stop])
