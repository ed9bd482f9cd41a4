"""Texts and demonstrations as rows to train on."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from k15.records import Sequence as Row
from k15.tasks.format import end_token_id, prompt_text, token_ids

Tokens = NDArray[np.int32]  # of one row: id × 2 + whether it is in the loss


def text_rows(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """Of each document every token and the one that ends it; all enter the loss but the first."""
    end = end_token_id(tokenizer)
    return [_flagged([*ids, end], 1) for ids in token_ids(tokenizer, texts)]


def demonstration_rows(
    tokenizer: Any, prompts: Sequence[str], responses: Sequence[str], *, everything: bool = False
) -> list[Tokens]:
    """Of each prompt and its response all tokens; only the response enters the loss, or `everything`."""
    end = end_token_id(tokenizer)
    asked = token_ids(tokenizer, [prompt_text(tokenizer, prompt) for prompt in prompts])
    answered = token_ids(tokenizer, responses)
    return [
        _flagged([*question, *answer, end], 1 if everything else len(question))
        for question, answer in zip(asked, answered, strict=True)
    ]


def _flagged(ids: Sequence[int], first: int) -> Tokens:
    """Tokens of which those from `first` on are in the loss; ValueError where that is none, or all."""
    if not 0 < first < len(ids):
        raise ValueError(
            "a training row needs 2 or more tokens, the first of them not in the loss: "
            f"got {len(ids)} tokens, in the loss from number {first} on"
        )
    tokens = np.asarray(ids, np.int32) * 2
    tokens[first:] += 1
    return tokens


def everything_in_loss(token_ids: Sequence[int]) -> Row:
    """A row of which every token but the first enters the loss."""
    return Row(tuple(token_ids), (False,) + (True,) * (len(token_ids) - 1))


def split(tokens: Tokens, max_tokens: int) -> Iterator[Tokens]:
    """A longer row as rows of at most `max_tokens`, each begun with the last token of the one before.

    So every token but the first is predicted once.
    """
    if len(tokens) <= max_tokens:
        yield tokens
        return
    for start in range(0, len(tokens) - 1, max_tokens - 1):
        piece = tokens[start : start + max_tokens].copy()
        piece[0] -= piece[0] & 1
        yield piece


def refuse_longer(lengths: Sequence[int], max_tokens: int, *, where: str) -> None:
    """ValueError says how many rows of `where` have more than `max_tokens` tokens, and what would fit."""
    longer = [length for length in lengths if length > max_tokens]
    if longer:
        raise ValueError(
            f"{where}: {len(longer)} of {len(lengths)} rows have more than max_tokens={max_tokens} tokens "
            f"(the longest {max(longer)}); raise max_tokens or leave them out of the data"
        )
