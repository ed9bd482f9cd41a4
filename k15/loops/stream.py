"""Batches of rows to train on, in an order that a seed fixes and any step can be entered at.

What a step trains on is planned from indices and lengths alone; tokens are read when their turn comes. So a
run that goes on at step n meets the same batches as one that was never interrupted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from k15.records import Sequence as Row
from k15.tasks.row_file import RowFile
from k15.tasks.rows import everything_in_loss


@dataclass(frozen=True, slots=True)
class Batch:
    """What one optimizer step trains on, and which examples it is made of (for whoever must name them)."""

    rows: tuple[Row, ...]
    ids: tuple[str, ...]


class Span(NamedTuple):
    """Tokens [start, stop) of an example of a data set."""

    data: str
    place: int  # in the data set
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of a batch, each of one span or of several joined, and how many sequences hold them."""

    rows: tuple[tuple[Span, ...], ...]
    num_sequences: int  # 0: not packed


@dataclass(frozen=True, slots=True)
class Part:
    """A phase of a run: `plan` begins its steps from the first one."""

    name: str
    steps: int
    sequence_tokens: int  # of a packed sequence
    plan: Callable[[], Iterator[Step]]


class Stream:
    """The batches of all parts in turn, from any step on."""

    def __init__(self, data: Mapping[str, RowFile], parts: Sequence[Part]) -> None:
        self._data = data
        self._parts = parts

    @property
    def steps(self) -> int:
        """Of all parts."""
        return sum(part.steps for part in self._parts)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """The batches of steps start, start + 1, … to the last."""
        for part in self._parts:
            for step in islice(part.plan(), min(start, part.steps), part.steps):
                yield Batch(
                    tuple(self._row(spans) for spans in step.rows),
                    tuple(self._name(span) for spans in step.rows for span in spans),
                )
            start = max(0, start - part.steps)

    def counts(self) -> list[dict[str, Any]]:
        """For each part its steps, what was drawn from each data set, and how full its sequences are."""
        return [self._counts(part) for part in self._parts]

    def _counts(self, part: Part) -> dict[str, Any]:
        examples = dict.fromkeys(self._data, 0)
        tokens = dict.fromkeys(self._data, 0)
        num_sequences = 0
        for step in islice(part.plan(), part.steps):
            num_sequences += step.num_sequences
            for spans in step.rows:
                for span in spans:
                    examples[span.data] += span.start == 0
                    tokens[span.data] += span.stop - span.start
        total = sum(tokens.values())
        fill = total / (num_sequences * part.sequence_tokens) if num_sequences else None
        shares = {
            name: {"examples": examples[name], "tokens": tokens[name], "token_share": tokens[name] / total}
            for name in self._data
        }
        return {"phase": part.name, "steps": part.steps, "fill": fill, "data": shares}

    def _name(self, span: Span) -> str:
        return f"{span.data}/{self._data[span.data].name(*span[1:])}"

    def _row(self, spans: tuple[Span, ...]) -> Row:
        if len(spans) == 1:
            return self._data[spans[0].data].row(*spans[0][1:])
        ids = [
            token
            for name, index, start, stop in spans
            for token in self._data[name].token_ids(index, start, stop)
        ]
        return everything_in_loss(ids)
