"""How a text becomes tokens and back, the same in every stage."""

from collections.abc import Sequence
from typing import Any


def prompt_text(tokenizer: Any, text: str) -> str:
    """A question as the model reads it: through the tokenizer's chat template, or with a line end."""
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": text}]
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    return text + "\n"


def prompt_token_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of `prompt_text`."""
    return list(tokenizer.encode(prompt_text(tokenizer, text), add_special_tokens=False))


def token_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of many texts, each as `encode` gives them; a fast tokenizer lets other threads run."""
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, **options)["input_ids"]
    return found


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
