"""Tokens of tables, kept so that they are made once. Any of it may be lost at any time: it is made again.

    cache/tokens/<digest>/<first row>.parquet     conditional put; the tokens of some rows, from that one on

The digest names everything that decides the tokens, so every writer of a path writes what any other would: of
racing ones the first stays. Where chunks end is each writer's choice; a chunk says how many rows it has.
"""

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import pyarrow
from numpy.typing import NDArray

from k15.store.objects import Objects
from k15.store.tables import decode_table, encode_table

FOLDER = "cache/tokens/"
COLUMN = "tokens"

log = logging.getLogger("k15.store")


@dataclass(frozen=True)
class Chunk:
    """The tokens of some rows of a table that has `table_rows`, as whole numbers of 32 bits."""

    rows: list[NDArray[np.int32]]
    table_rows: int


class TokenCache:
    """The chunks of one table."""

    def __init__(self, objects: Objects, digest: str) -> None:
        self._objects = objects
        self._folder = f"{FOLDER}{digest}/"

    def get(self, first: int) -> Chunk | None:
        """The chunk that begins at row `first`; None where there is none. A damaged one is removed."""
        path = self._path(first)
        try:
            data = self._objects.get(path)
        except FileNotFoundError:
            return None
        try:
            return _decode(data)
        except (ValueError, KeyError, OSError) as error:  # pyarrow's own are among these
            log.warning("cache=damaged uri=%s reason=%r", self._objects.uri(path), str(error))
            self._objects.delete([path])
            return None

    def put(self, first: int, chunk: Chunk) -> None:
        """Keep a chunk that begins at row `first`, unless another writer has."""
        self._objects.put_if_absent(self._path(first), _encode(chunk))

    def _path(self, first: int) -> str:
        return f"{self._folder}{first:012d}.parquet"


def _encode(chunk: Chunk) -> bytes:
    ends = np.cumsum([0, *map(len, chunk.rows)], dtype=np.int64)
    tokens = np.concatenate(chunk.rows)
    lists = pyarrow.LargeListArray.from_arrays(ends, tokens)
    facts = {"table_rows": str(chunk.table_rows), "sha256": _sha256(ends, tokens)}
    return encode_table(pyarrow.table({COLUMN: lists}).replace_schema_metadata(facts))


def _decode(data: bytes) -> Chunk:
    table = decode_table(data)
    facts = table.schema.metadata or {}
    lists = table.column(COLUMN).combine_chunks()
    ends = np.cumsum([0, *lists.value_lengths().to_numpy()], dtype=np.int64)
    tokens = lists.flatten().to_numpy()
    if _sha256(ends, tokens) != facts[b"sha256"].decode():
        raise ValueError("its tokens are not those that were written")
    return Chunk(np.split(tokens, ends[1:-1]), int(facts[b"table_rows"]))


def _sha256(ends: NDArray[np.int64], tokens: NDArray[np.int32]) -> str:
    digest = hashlib.sha256(ends.tobytes())
    digest.update(tokens.tobytes())
    return digest.hexdigest()
