"""The answer a response states.

Rules, of which the first that finds a mark decides, by the last mark it finds:

| mark                              | the answer                                                    |
|-----------------------------------|---------------------------------------------------------------|
| `####`, as in GSM8K               | the rest of the line                                          |
| `\\boxed{`, `\\fbox{`             | what the braces hold                                          |
| `the answer is`, `answer:`, …     | a formula that follows at once, else up to the sentence's end |

The first two are one rule: the one further on counts.

A mark without an answer (a box that does not close, an empty line) states none: None, not the one before it.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from k15.records import Prompt

MARK = "#### "
MAX_CHARACTERS = 1000  # a longer answer is prose or hostile, and states none
SPACE = 100  # before the answer
BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|####")
PHRASE = re.compile(
    r"\b(?:answer|result)\s+is\b(?:\s+therefore|\s+thus|\s+simply)?:?|\banswer\s*:",
    re.IGNORECASE,
)
FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
EMPHASIS = "*_` \t"


def last_answer(text: str) -> str | None:
    """The answer by the table above; None where none is stated. Linear in the text's length."""
    if (found := _last(BOX, text)) is not None:
        rest = text[found.end() : found.end() + MAX_CHARACTERS + 1]
        stated = rest.split("\n", 1)[0] if found.group() == "####" else _braced(rest)
    elif (found := _last(PHRASE, text)) is not None:
        stated = _sentence(text[found.end() : found.end() + MAX_CHARACTERS + SPACE])
    else:
        return None
    return stated.strip() or None if len(stated) <= MAX_CHARACTERS else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007  the last one is wanted
        pass
    return found


def _sentence(rest: str) -> str:
    """The formula that `rest` begins with, or its first sentence, without Markdown's emphasis."""
    line = rest.lstrip(EMPHASIS + ":\n").split("\n", 1)[0]
    if formula := FORMULA.match(line):
        return next(group for group in formula.groups() if group is not None)
    return SENTENCE_END.split(line, maxsplit=1)[0].strip(EMPHASIS)


def _braced(text: str) -> str:
    """`text` up to the brace that closes the one before it, escaped ones apart; empty where none does."""
    depth, escaped = 1, False
    for position, character in enumerate(text):
        if escaped or character == "\\":
            escaped = not escaped
            continue
        depth += (character == "{") - (character == "}")
        if not depth:
            return text[:position]
    return ""


class Statement(NamedTuple):
    """How responses to the prompts of a reward state what is judged."""

    stated: Callable[[Prompt, str], str | None]  # by a response; None: nothing
    published: Callable[[Prompt], str | None]  # a response that must be correct; None where none is known
    is_reference: bool  # whether what is stated could stand as a prompt's reference, and others be compared


ANSWER = Statement(
    stated=lambda _, response: last_answer(response),
    published=lambda prompt: f"\\boxed{{{prompt.reference}}}",
    is_reference=True,
)
