"""Parquet tables: their schemas, and rows to and from the records that stages pass on."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

from k15.records import Part, Prompt

SCAN_ROWS = 1024  # decoded at a time

PROMPTS = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("parts", pyarrow.string()),  # JSON: a list of records.Part
        ("reference", pyarrow.string()),
        ("task", pyarrow.string()),
        ("difficulty", pyarrow.float64()),
        ("reward", pyarrow.string()),
        ("metadata", pyarrow.string()),  # JSON
    ]
)
TEXT = pyarrow.schema([("text", pyarrow.string())])
DEMONSTRATIONS = pyarrow.schema(
    [
        ("prompt", pyarrow.string()),
        ("response", pyarrow.string()),
        ("style", pyarrow.string()),
        ("task", pyarrow.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt with a response to imitate."""

    prompt: str
    response: str
    style: str
    task: str


def encode_table(table: pyarrow.Table) -> bytes:
    """Parquet bytes; equal tables give equal bytes under one version of pyarrow."""
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def decode_table(data: bytes) -> pyarrow.Table:
    """A table from Parquet bytes."""
    return pyarrow.parquet.read_table(pyarrow.BufferReader(data), use_threads=False)


class Scan(NamedTuple):
    """A table that is read in order."""

    columns: list[str]
    num_rows: int
    rows: Iterator[dict[str, Any]]


def scan(path: Path, where: str) -> Scan:
    """A local Parquet file; its rows are decoded a few at a time.

    ValueError names `where` and what is no Parquet file.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path, memory_map=True, pre_buffer=False)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{where}: not a Parquet file ({error})") from None
    batches = file.iter_batches(batch_size=SCAN_ROWS, use_threads=False)
    rows = (row for batch in batches for row in batch.to_pylist())
    return Scan(list(file.schema_arrow.names), file.metadata.num_rows, rows)


def table_of(rows: Sequence[Any], schema: pyarrow.Schema) -> pyarrow.Table:
    """Dataclass rows as a table of `schema`."""
    return pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def checked(table: pyarrow.Table, schema: pyarrow.Schema, where: str) -> pyarrow.Table:
    """The columns of `schema`; ValueError names `where` and a wrong column, or says it is empty."""
    for column in schema:
        if column.name not in table.column_names:
            raise ValueError(f"{where}: no column {column.name!r}; a table here needs {schema.names}")
        found = table.schema.field(column.name).type
        if found != column.type:
            raise ValueError(f"{where}: column {column.name!r} is {found}; it must be {column.type}")
    if not table.num_rows:
        raise ValueError(f"{where}: the table is empty; give it at least one row")
    return table.select(schema.names)


def prompts_to_table(prompts: Iterable[Prompt]) -> pyarrow.Table:
    """Prompts as rows; their parts become JSON."""
    rows = [
        {
            "id": prompt.id,
            "parts": json.dumps([asdict(part) for part in prompt.parts], ensure_ascii=False),
            "reference": prompt.reference,
            "task": prompt.task,
            "difficulty": prompt.difficulty,
            "reward": prompt.reward,
            "metadata": prompt.metadata,
        }
        for prompt in prompts
    ]
    return pyarrow.Table.from_pylist(rows, schema=PROMPTS)


def prompts_from_table(table: pyarrow.Table, where: str) -> list[Prompt]:
    """The prompts of a table, in its order; ValueError names `where`."""
    prompts = []
    for row in checked(table, PROMPTS, where).to_pylist():
        parts = tuple(Part(**part) for part in json.loads(row.pop("parts")))
        prompts.append(Prompt(parts=parts, **row))
    return prompts


def demonstrations_to_table(rows: Sequence[Demonstration]) -> pyarrow.Table:
    """Demonstrations as rows."""
    return table_of(rows, DEMONSTRATIONS)


def demonstrations_from_table(table: pyarrow.Table, where: str) -> list[Demonstration]:
    """The demonstrations of a table, in its order; ValueError names `where`."""
    return [Demonstration(**row) for row in checked(table, DEMONSTRATIONS, where).to_pylist()]


def text_to_table(texts: Sequence[str]) -> pyarrow.Table:
    """Texts as rows."""
    return pyarrow.table({"text": pyarrow.array(texts, pyarrow.string())}, schema=TEXT)


def text_from_table(table: pyarrow.Table, where: str) -> list[str]:
    """The texts of a table, in its order; ValueError names `where`."""
    texts: list[str] = checked(table, TEXT, where).column("text").to_pylist()
    return texts
