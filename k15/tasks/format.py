"""How a text becomes tokens and back, the same in every stage."""

from collections.abc import Sequence
from typing import Any


def prompt_token_ids(tokenizer: Any, text: str) -> list[int]:
    """A question as the model reads it: through the tokenizer's chat template, or with a line end."""
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(tokenizer.encode(rendered, add_special_tokens=False))
    return list(tokenizer.encode(text + "\n", add_special_tokens=False))


def response_token_ids(tokenizer: Any, text: str) -> list[int]:
    """A response as the model must write it, with the token that ends it."""
    return [*tokenizer.encode(text, add_special_tokens=False), end_token_id(tokenizer)]


def response_text(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of a response, without the token that ends it and what may follow."""
    ids = list(token_ids)
    end = end_token_id(tokenizer)
    if end in ids:
        ids = ids[: ids.index(end)]
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def end_token_id(tokenizer: Any) -> int:
    """The token that ends a response; ValueError where the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer names no eos_token; set it in its tokenizer_config.json")
    return int(tokenizer.eos_token_id)
