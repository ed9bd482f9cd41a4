"""Texts and demonstrations as rows to train on."""

from collections.abc import Iterator, Sequence
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


def split(row: Row, max_tokens: int) -> Iterator[Row]:
    """A longer row as rows of at most `max_tokens`, each begun with the last token of the one before.

    So every token but the first is predicted once.
    """
    if len(row.token_ids) <= max_tokens:
        yield row
        return
    for start in range(0, len(row.token_ids) - 1, max_tokens - 1):
        in_loss = row.in_loss[start : start + max_tokens]
        yield Row(row.token_ids[start : start + max_tokens], (False, *in_loss[1:]))


def refuse_longer(lengths: Sequence[int], max_tokens: int, *, where: str) -> None:
    """ValueError says how many rows of `where` have more than `max_tokens` tokens, and what would fit."""
    longer = [length for length in lengths if length > max_tokens]
    if longer:
        raise ValueError(
            f"{where}: {len(longer)} of {len(lengths)} rows have more than max_tokens={max_tokens} tokens "
            f"(the longest {max(longer)}); raise max_tokens or leave them out of the data"
        )
