"""Texts and demonstrations as rows to train on."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from k15.records import Sequence as Row
from k15.tasks.format import end_token_id, prompt_token_ids, response_token_ids


def text_row(tokenizer: Any, text: str) -> Row:
    """Every token of a document and the one that ends it; all enter the loss but the first."""
    token_ids = (*tokenizer.encode(text, add_special_tokens=False), end_token_id(tokenizer))
    return everything_in_loss(token_ids)


def demonstration_row(tokenizer: Any, prompt: str, response: str) -> Row:
    """A prompt and its response; only the response enters the loss."""
    asked = prompt_token_ids(tokenizer, prompt)
    answered = response_token_ids(tokenizer, response)
    return Row((*asked, *answered), (False,) * len(asked) + (True,) * len(answered))


def everything_in_loss(token_ids: Sequence[int]) -> Row:
    """A row of which every token but the first enters the loss."""
    return Row(tuple(token_ids), (False,) + (True,) * (len(token_ids) - 1))


def refuse_longer(rows: Sequence[Row], max_tokens: int, *, where: str) -> None:
    """ValueError says how many rows of `where` have more than `max_tokens` tokens, and what would fit."""
    lengths = [len(row.token_ids) for row in rows]
    longer = [length for length in lengths if length > max_tokens]
    if longer:
        raise ValueError(
            f"{where}: {len(longer)} of {len(lengths)} rows have more than max_tokens={max_tokens} tokens "
            f"(the longest {max(longer)}); raise max_tokens or leave them out of the data"
        )


def full_rows(documents: Iterable[Row], length: int) -> Iterator[Row]:
    """Documents one after another, cut into rows of exactly `length` tokens with attention across them."""
    held: list[int] = []
    for document in documents:
        held += document.token_ids
        while len(held) >= length:
            yield everything_in_loss(held[:length])
            held = held[length:]


def short_rows(documents: Iterable[Row], num_tokens: int) -> Iterator[list[Row]]:
    """Lists of whole documents: the next ones that have `num_tokens` tokens together, one at least."""
    held: list[Row] = []
    total = 0
    for document in documents:
        size = len(document.token_ids)
        if held and total + size > num_tokens:
            yield held
            held, total = [], 0
        held.append(document)
        total += size
