"""The data sets of a supervised stage as rows on local disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from k15.recipes.supervised import FitRecipe, data_names, data_role
from k15.records import Sequence as Row
from k15.stage import StageContext
from k15.store.artifact import Artifact
from k15.store.tables import scan
from k15.tasks.row_file import Origin, RowFile
from k15.tasks.rows import demonstration_row, everything_in_loss, text_row

Table = dict[str, Any]  # one row of a table, by column
MakeRow = Callable[[Any, Table], Row]
Shape = Callable[[Row], Iterator[Row]]  # a row of a table -> rows to train on
SUFFIX = ".parquet"
DOCUMENT, DEMONSTRATION = ("text",), ("prompt", "response")


def _document(tokenizer: Any, row: Table) -> Row:
    return text_row(tokenizer, row["text"])


def _demonstration(tokenizer: Any, row: Table) -> Row:
    return demonstration_row(tokenizer, row["prompt"], row["response"])


def _demonstration_as_text(tokenizer: Any, row: Table) -> Row:
    return everything_in_loss(_demonstration(tokenizer, row).token_ids)


def as_it_is(row: Row) -> Iterator[Row]:
    """The row itself."""
    yield row


Kinds = Mapping[tuple[str, ...], MakeRow]  # by the columns a table must have
RESPONSES: Kinds = {DEMONSTRATION: _demonstration}  # loss on responses only
EVERYTHING: Kinds = {DOCUMENT: _document, DEMONSTRATION: _demonstration_as_text}  # loss on every token


def read_data(
    ctx: StageContext,
    recipe: FitRecipe,
    tokenizer: Any,
    kinds: Kinds,
    *,
    shape: Shape = as_it_is,
) -> dict[str, RowFile]:
    """Every data set of the stage, its tables read in pieces; `shape` makes rows to train on of each row."""
    if problems := recipe.role_problems(ctx.inputs):
        raise ValueError("\n".join(problems))
    return {
        name: read_role(ctx, data_role(name, ctx.inputs), tokenizer, kinds, shape=shape)
        for name in data_names(ctx.inputs)
    }


def read_role(
    ctx: StageContext, role: str, tokenizer: Any, kinds: Kinds, *, shape: Shape = as_it_is
) -> RowFile:
    """The rows of one input."""
    artifact = ctx.inputs[role]
    rows = (
        shaped
        for table, number, row in _rows(ctx, artifact, tokenizer, kinds)
        for shaped in _placed(table, number, shape(row))
    )
    return RowFile.write(ctx.scratch / f"rows-{role}", rows, where=artifact.uri)


def _placed(table: str, number: int, pieces: Iterator[Row]) -> Iterator[tuple[Origin, Row]]:
    """The pieces of a table's row, each begun with the last token of the one before."""
    start = 0
    for piece in pieces:
        yield Origin(table, number, start), piece
        start += len(piece.token_ids) - 1


def _rows(
    ctx: StageContext, artifact: Artifact, tokenizer: Any, kinds: Kinds
) -> Iterator[tuple[str, int, Row]]:
    """(table, its row's number, the row) of all tables."""
    local = ctx.scratch / f"table{SUFFIX}"
    for path in tables(artifact):
        where = f"{artifact.uri}/{path}" if path else artifact.uri
        artifact.copy_file(path, local)
        columns, table = scan(local, where)
        make = _kind(columns, kinds, where)
        for number, row in enumerate(table):
            if not all(
                isinstance(row[column], str) for columns in kinds for column in columns if column in row
            ):
                raise ValueError(f"{where}: row {number} has an empty field or one that is no text")
            try:
                yield path, number, make(tokenizer, row)
            except ValueError as error:
                raise ValueError(f"{where}: row {number}: {error}") from None
        local.unlink()


def tables(artifact: Artifact) -> Sequence[str]:
    """The tables of an input: its Parquet files, in order, or "" for a user's lone file.

    ValueError where it has none, or has some in folders within it: nothing that is given is left out.
    """
    names = [entry.path for entry in artifact.files]
    found = sorted(name for name in names if name.endswith(SUFFIX))
    if not found and len(names) == 1 and "." not in names[0]:
        return [""]  # a raw file: its name is its digest
    deeper = [name for name in found if "/" in name]
    if not found or len(deeper) == len(found):
        raise ValueError(
            f"{artifact.uri}: no table to train on; name the part that holds one, of {names[:20]}"
        )
    if deeper:
        raise ValueError(
            f"{artifact.uri}: {len(deeper)} of its {len(found)} tables lie in folders within it: "
            f"{deeper[:5]}; put all that belong together into one folder, and name the others by themselves"
        )
    return found


def _kind(columns: Sequence[str], kinds: Kinds, where: str) -> MakeRow:
    for wanted, make in kinds.items():
        if set(wanted) <= set(columns):
            return make
    needs = " or ".join(str(list(wanted)) for wanted in kinds)
    raise ValueError(f"{where}: columns {list(columns)}; a table here needs {needs}")
