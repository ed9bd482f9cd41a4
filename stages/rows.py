"""The data sets of a supervised stage as rows on local disk."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from k15.recipes.supervised import FitRecipe, data_names, data_role
from k15.stage import StageContext
from k15.store.artifact import Artifact
from k15.tasks.row_file import Origin, RowFile
from k15.tasks.rows import Tokens, demonstration_rows, text_rows
from stages.tokens import Make, Table, Tokeniser

Shape = Callable[[Tokens], Iterator[Tokens]]  # a row of a table -> rows to train on
SUFFIX = ".parquet"
DOCUMENT, DEMONSTRATION = ("text",), ("prompt", "response")


class Kinds(NamedTuple):
    """What becomes of a table, by the columns it must have; the name stands for that in the store."""

    name: str
    by_columns: Mapping[tuple[str, ...], Make]


def _documents(tokenizer: Any, rows: Sequence[Table]) -> list[Tokens]:
    return text_rows(tokenizer, [row["text"] for row in rows])


def _demonstrations(tokenizer: Any, rows: Sequence[Table]) -> list[Tokens]:
    prompts, responses = [row["prompt"] for row in rows], [row["response"] for row in rows]
    return demonstration_rows(tokenizer, prompts, responses)


def _demonstrations_as_texts(tokenizer: Any, rows: Sequence[Table]) -> list[Tokens]:
    prompts, responses = [row["prompt"] for row in rows], [row["response"] for row in rows]
    return demonstration_rows(tokenizer, prompts, responses, everything=True)


def as_it_is(tokens: Tokens) -> Iterator[Tokens]:
    """The row itself."""
    yield tokens


RESPONSES = Kinds("responses", {DEMONSTRATION: _demonstrations})  # loss on responses only
EVERYTHING = Kinds(  # loss on every token
    "everything", {DOCUMENT: _documents, DEMONSTRATION: _demonstrations_as_texts}
)


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
    with Tokeniser(ctx, tokenizer, kinds.name) as tokeniser:
        rows = (
            shaped
            for path in tables(artifact)
            for number, tokens in enumerate(tokeniser.rows(artifact, path, partial(_kind, kinds)))
            for shaped in _placed(path, number, shape(tokens))
        )
        return RowFile.write(ctx.scratch / f"rows-{role}", rows, where=artifact.uri)


def _placed(table: str, number: int, pieces: Iterator[Tokens]) -> Iterator[tuple[Origin, Tokens]]:
    """The pieces of a table's row, each begun with the last token of the one before."""
    start = 0
    for piece in pieces:
        yield Origin(table, number, start), piece
        start += len(piece) - 1


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


def _kind(kinds: Kinds, columns: Sequence[str], where: str) -> tuple[tuple[str, ...], Make]:
    """What a table with these columns becomes, and the columns that this reads."""
    for wanted, make in kinds.by_columns.items():
        if set(wanted) <= set(columns):
            return wanted, make
    needs = " or ".join(str(list(wanted)) for wanted in kinds.by_columns)
    raise ValueError(f"{where}: columns {list(columns)}; a table here needs {needs}")
