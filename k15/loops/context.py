"""The evaluation of long context: what a model finds in a document, by task, length and depth."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any, Protocol

from k15.recipes.context import ContextRecipe
from k15.records import Sequence as Row
from k15.tasks.long_context.documents import Segment, probing_document, spread
from k15.tasks.long_context.facts import STYLES, draw_facts
from k15.tasks.long_context.words import Lexicon

Encode = Callable[[str], Sequence[int]]


class Matcher(Protocol):
    """What the evaluation needs of a trainer."""

    def greedy_matches(self, rows: Sequence[Row]) -> list[list[bool]]:
        """For each row, whether each loss token is the one that greedy decoding would take."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A document with look-ups at its end, and at which depth each one's fact is first told."""

    task: str
    length: int
    row: Row  # answers are in the loss
    depths: tuple[float, ...]
    sizes: tuple[int, ...]  # tokens of each answer


@dataclass(frozen=True, slots=True)
class Answer:
    """One look-up: right where every token of the answer is what greedy decoding would say."""

    task: str
    length: int
    depth: float  # 0 at the start of the document
    right: bool


def probes(recipe: ContextRecipe, encode: Encode) -> Iterator[Probe]:
    """The documents of every task and length; the same for the same recipe and tokenizer."""
    known: dict[str, Sequence[int]] = {}

    def tokens(text: str) -> Sequence[int]:
        if text not in known:
            known[text] = encode(text)
        return known[text]

    for task, asked in recipe.tasks.items():
        for length in recipe.lengths:
            random = Random(f"{recipe.seed} {task} {length}")
            for _ in range(recipe.documents):
                yield _probe(random, recipe, task, asked.hops, length, tokens)


def answers(model: Matcher, asked: Sequence[Probe]) -> list[Answer]:
    """Every look-up of the probes, answered."""
    found = []
    for probe, matches in zip(asked, model.greedy_matches([probe.row for probe in asked]), strict=True):
        start = 0
        for depth, size in zip(probe.depths, probe.sizes, strict=True):
            found.append(Answer(probe.task, probe.length, depth, all(matches[start : start + size])))
            start += size
    return found


def summarize(results: Mapping[str, Sequence[Answer]], recipe: ContextRecipe) -> dict[str, Any]:
    """For each model and task: accuracy by length, by length and depth, and the usable length.

    A length is usable where every depth of it reaches `usable_accuracy`, and of every shorter one.
    """
    return {
        "lengths": list(recipe.lengths),
        "depths": recipe.depths,
        "usable_accuracy": recipe.usable_accuracy,
        "models": [
            {"name": name, "tasks": [_task_figures(task, rows, recipe) for task in recipe.tasks]}
            for name, rows in results.items()
        ],
    }


def _probe(random: Random, recipe: ContextRecipe, task: str, hops: int, length: int, tokens: Encode) -> Probe:
    language = recipe.language
    lexicon = Lexicon.of_size(language.num_keys, language.num_values)
    num_facts = max(1, min(length // recipe.tokens_per_record, language.num_keys) // (hops + 1))
    facts = draw_facts(random, num_facts, hops=hops, style=STYLES[language.style], lexicon=lexicon)
    places = spread(random, min(recipe.lookups, num_facts), num_facts)
    segments = probing_document(
        random, facts, length=length, asked=places, count=lambda text: len(tokens(text))
    )
    return _as_row(task, length, segments, tokens)


def _as_row(task: str, length: int, segments: Sequence[Segment], tokens: Encode) -> Probe:
    token_ids: list[int] = []
    in_loss: list[bool] = []
    depths, sizes = [], []
    for segment in segments:
        part = tokens(segment.text)
        token_ids += part
        in_loss += [segment.depth is not None] * len(part)
        if segment.depth is not None:
            depths.append(segment.depth)
            sizes.append(len(part))
    return Probe(task, length, Row(tuple(token_ids), tuple(in_loss)), tuple(depths), tuple(sizes))


def _task_figures(task: str, rows: Sequence[Answer], recipe: ContextRecipe) -> dict[str, Any]:
    lengths = []
    for length in recipe.lengths:
        mine = [row for row in rows if (row.task, row.length) == (task, length)]
        lengths.append({"length": length} | _length_figures(mine, recipe.depths))
    usable = 0
    for figures in sorted(lengths, key=lambda figures: figures["length"]):
        if figures["worst_depth"] < recipe.usable_accuracy:
            break
        usable = figures["length"]
    return {"task": task, "usable_tokens": usable, "lengths": lengths}


def _length_figures(rows: Sequence[Answer], depths: int) -> dict[str, Any]:
    stretches: list[list[bool]] = [[] for _ in range(depths)]
    for row in rows:
        stretches[min(depths - 1, int(row.depth * depths))].append(row.right)
    by_depth = [fmean(stretch) if stretch else None for stretch in stretches]
    return {
        "accuracy": fmean(row.right for row in rows),
        "worst_depth": min(value for value in by_depth if value is not None),
        "by_depth": by_depth,
        "num_by_depth": [len(stretch) for stretch in stretches],
    }
