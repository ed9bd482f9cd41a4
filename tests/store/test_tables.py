"""Tables: records in, the same records out; a wrong table is named."""

from pathlib import Path

import pyarrow
import pytest

from k15.records import Part, Prompt
from k15.store.tables import (
    SCAN_ROWS,
    Demonstration,
    decode_table,
    demonstrations_from_table,
    demonstrations_to_table,
    encode_table,
    prompts_from_table,
    prompts_to_table,
    scan,
    text_from_table,
    text_to_table,
)

PROMPTS = [
    Prompt("a", (Part("text", "1 + 1 = ?"),), "2", "chain_sum", 0.1, "exact"),
    Prompt(
        "b",
        (Part("image", digest="ab", media_type="image/png"), Part("text", "π?")),
        "3",
        "see",
        1.0,
        "x",
        '{"k": 1}',
    ),
]


def test_prompts_survive_parquet() -> None:
    table = decode_table(encode_table(prompts_to_table(PROMPTS)))
    assert prompts_from_table(table, "test") == PROMPTS


def test_demonstrations_and_text_survive_parquet() -> None:
    rows = [Demonstration("1 + 1 = ?", "2", "direct", "chain_sum")]
    assert (
        demonstrations_from_table(decode_table(encode_table(demonstrations_to_table(rows))), "test") == rows
    )
    assert text_from_table(decode_table(encode_table(text_to_table(["a", "b"]))), "test") == ["a", "b"]


def test_equal_tables_have_equal_bytes() -> None:
    assert encode_table(prompts_to_table(PROMPTS)) == encode_table(prompts_to_table(PROMPTS))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pyarrow.table({"texts": ["a"]}), "data:train: no column 'text'"),
        (pyarrow.table({"text": [1]}), "data:train: column 'text' is int64; it must be string"),
        (text_to_table([]), "data:train: the table is empty"),
    ],
)
def test_a_wrong_table_is_named(table: pyarrow.Table, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_from_table(table, "data:train")


def test_a_file_is_scanned_row_by_row(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(3 * SCAN_ROWS + 5)]
    path = tmp_path / "table"
    path.write_bytes(encode_table(text_to_table(texts)))
    columns, num_rows, rows = scan(path, "here")
    assert (columns, num_rows) == (["text"], len(texts))
    assert [row["text"] for row in rows] == texts


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(b"not a table")
    with pytest.raises(ValueError, match="here: not a Parquet file"):
        scan(tmp_path / "table", "here")
