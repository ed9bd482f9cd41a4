"""What a document states and asks: values kept under keys, told at once or by a chain of keys.

The ideas are RULER's (arXiv 2404.06654): retrieval among distractors, and variable tracking, where a key's
value is that of another key (`hops` times over).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from k15.tasks.long_context.words import Lexicon


@dataclass(frozen=True, slots=True)
class Style:
    """How a fact is written. Every piece starts a word, so it has the same tokens wherever it stands."""

    record: str
    link: str
    question: str
    tail: str  # after the answer


STYLES = {
    "terse": Style(record="{key} {value}", link="{key} {other}", question="{key}", tail=""),
    "prose": Style(
        record="The number of {key} is {value} .",
        link="The number of {key} is that of {other} .",
        question="What is the number of {key} ? It is",
        tail=" .",
    ),
}


@dataclass(frozen=True, slots=True)
class Fact:
    """Records that come in this order, with anything between them, and what may be asked after the last."""

    records: tuple[str, ...]
    question: str
    answer: str
    tail: str


def draw_facts(random: Random, count: int, *, hops: int, style: Style, lexicon: Lexicon) -> list[Fact]:
    """`count` facts of `hops + 1` records, no key in two of them. ValueError where there are too few keys."""
    needed = count * (hops + 1)
    if needed > len(lexicon.keys):
        raise ValueError(f"{count} facts of {hops} hops need {needed} keys; there are {len(lexicon.keys)}")
    keys = random.sample(lexicon.keys, needed)
    return [
        _fact(keys[start : start + hops + 1], random.choice(lexicon.values), style)
        for start in range(0, needed, hops + 1)
    ]


def _fact(keys: Sequence[str], value: str, style: Style) -> Fact:
    records = [style.record.format(key=keys[0], value=value)]
    for other, key in itertools.pairwise(keys):
        records.append(style.link.format(key=key, other=other))
    return Fact(tuple(records), style.question.format(key=keys[-1]), value, style.tail)
