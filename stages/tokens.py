"""A data set's tables as tokens: out of the store where they were made before, else made here and put there.

A table is read in chunks. A stage that was killed goes on after the last one that is in the store.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Self

from k15.stage import StageContext
from k15.store.artifact import Artifact
from k15.store.code import module_digest
from k15.store.tables import Scan, scan
from k15.store.tokens import Chunk, TokenCache
from k15.tasks.rows import Tokens
from k15.tasks.tokenizer import tokenizer_digest

Table = dict[str, Any]  # one row of a table, by column
Make = Callable[[Any, Sequence[Table]], list[Tokens]]  # (tokenizer, rows) -> the tokens of each
KindOf = Callable[[Sequence[str], str], tuple[tuple[str, ...], Make]]  # (columns, where) -> those read, how

ROOT = Path(__file__).parents[1]
CHUNK_ROWS = 1 << 15
CHUNK_CHARACTERS = 1 << 25  # what a kill costs is the time for these
PIECE_CHARACTERS = 1 << 17  # a chunk is shared out over the cores by pieces of about these
SAY_EVERY_S = 5.0

log = logging.getLogger("stages.tokens")


class Tokeniser:
    """Makes tokens on all cores of the stage, inside a `with` block; `kind` names what it makes of tables."""

    def __init__(self, ctx: StageContext, tokenizer: Any, kind: str) -> None:
        self._ctx = ctx
        self._tokenizer = tokenizer
        # What decides the tokens of a table, beside its bytes.
        self._decides = f"{kind} {module_digest(ROOT, 'stages.rows')} {tokenizer_digest(tokenizer)}"

    def __enter__(self) -> Self:
        # The library's own threads would take the whole machine; a first call settles its shared settings.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._tokenizer(["a"], add_special_tokens=False)
        cores = self._ctx.job.resources.cores
        self._pool = ThreadPoolExecutor(cores if self._tokenizer.is_fast else 1)
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def rows(self, artifact: Artifact, path: str, kind_of: KindOf) -> Iterator[Tokens]:
        """The tokens of every row of one table, in order.

        ValueError where it is no table, or a row cannot be read. StageStopped where SIGTERM came.
        """
        (entry,) = [entry for entry in artifact.files if entry.path == path or not path]
        cache = TokenCache(
            self._ctx.store.objects, sha256(f"{self._decides} {entry.sha256}".encode()).hexdigest()
        )
        where = f"{artifact.uri}/{path}" if path else artifact.uri
        pace = Pace(self._ctx, where)
        source: Source | None = None
        first = 0
        while True:
            chunk = cache.get(first)
            if chunk is not None:
                pace.add(len(chunk.rows), chunk.table_rows, made=False)
            else:
                source = source or Source(artifact, path, where, self._ctx.scratch / "table.parquet", kind_of)
                rows = source.chunk(first)
                if not rows:
                    break
                chunk = Chunk(self._made(source, rows, first, pace), source.num_rows)
                cache.put(first, chunk)
            yield from chunk.rows
            first += len(chunk.rows)
            if first >= chunk.table_rows:
                break
        pace.end()
        if source is not None:
            source.close()

    def _made(self, source: "Source", rows: list[Table], first: int, pace: "Pace") -> list[Tokens]:
        pieces = list(_pieces(rows))
        tasks = [self._pool.submit(source.make, self._tokenizer, piece) for piece in pieces]
        made: list[Tokens] = []
        for piece, task in zip(pieces, tasks, strict=True):
            try:
                made += task.result()
            except ValueError:
                self._name_refused(source, piece, first + len(made))
                raise
            pace.add(len(piece), source.num_rows, made=True)
        return made

    def _name_refused(self, source: "Source", piece: list[Table], first: int) -> None:
        """ValueError for the first row of a piece that cannot be made by itself."""
        for number, row in enumerate(piece, first):
            try:
                source.make(self._tokenizer, [row])
            except ValueError as error:
                raise ValueError(f"{source.where}: row {number}: {error}") from None


class Source:
    """A table's rows, copied to local disk to be read once in order."""

    def __init__(self, artifact: Artifact, path: str, where: str, local: Path, kind_of: KindOf) -> None:
        artifact.copy_file(path, local)
        self.where = where
        self._local = local
        self._table: Scan = scan(local, where)
        self._columns, self.make = kind_of(self._table.columns, where)
        self._next = 0

    @property
    def num_rows(self) -> int:
        """Of the whole table."""
        return self._table.num_rows

    def chunk(self, first: int) -> list[Table]:
        """Rows from `first` on, at least one of those left; ValueError for a field that holds no text."""
        found: list[Table] = []
        characters = 0
        for row in islice(self._table.rows, first - self._next, first - self._next + CHUNK_ROWS):
            if not all(isinstance(row[column], str) for column in self._columns):
                number = first + len(found)
                raise ValueError(f"{self.where}: row {number} has an empty field or one that is no text")
            found.append(row)
            characters += _characters(row)
            if characters >= CHUNK_CHARACTERS:
                break
        self._next = first + len(found)
        return found

    def close(self) -> None:
        """Remove the local copy."""
        self._local.unlink()


class Pace:
    """Says how far the reading of a table is, and what it does a second."""

    def __init__(self, ctx: StageContext, where: str) -> None:
        self._ctx = ctx
        self._where = where
        self._began = self._said = time.monotonic()
        self._done = self._made = self._total = 0

    def add(self, rows: int, total: int, *, made: bool) -> None:
        """Some rows of `total` are read, from the store or `made`; StageStopped where SIGTERM came."""
        self._done += rows
        self._made += rows * made
        self._total = total
        self._ctx.progress(self._done, total, f"rows of {self._where} as tokens")
        if time.monotonic() - self._said >= SAY_EVERY_S:
            self.end()

    def end(self) -> None:
        """Log it."""
        self._said = time.monotonic()
        rate = self._done / max(self._said - self._began, 1e-9)
        log.info(
            "tokens=%s rows=%d of=%d made=%d rows_per_s=%.0f",
            self._where,
            self._done,
            self._total,
            self._made,
            rate,
        )


def _characters(row: Table) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


def _pieces(rows: Sequence[Table]) -> Iterator[list[Table]]:
    """The rows in order, in lots of about PIECE_CHARACTERS."""
    piece: list[Table] = []
    characters = 0
    for row in rows:
        piece.append(row)
        characters += _characters(row)
        if characters >= PIECE_CHARACTERS:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece
