"""Documents of an exact length in which facts are stated among filler, and asked for.

Lengths are in tokens, the end-of-document token included; a word is a token unless `count` says otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from k15.tasks.long_context.facts import Fact
from k15.tasks.long_context.words import filler

Count = Callable[[str], int]  # tokens of a piece of text that starts with a space
END_TOKENS = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """Text of a document; of an answer it says where its fact is first told: 0 at the start, 1 at the end."""

    text: str
    depth: float | None = None

    @property
    def is_answer(self) -> bool:
        """Whether a fact tells what it says."""
        return self.depth is not None


@dataclass(frozen=True, slots=True)
class _Event:
    fact: int
    record: int | None  # None: the fact is asked for


def count_words(text: str) -> int:
    """A token a word."""
    return len(text.split())


def text_of(segments: Sequence[Segment]) -> str:
    """The whole document."""
    return "".join(segment.text for segment in segments)


def mixed_document(
    random: Random, facts: Sequence[Fact], *, length: int, num_lookups: int, count: Count = count_words
) -> list[Segment]:
    """Facts are asked for as soon as they have been told, or (in every second document) after all of them.

    A fact is asked for again only where every other told so far has been.
    """
    late = random.random() < 0.5
    events = list(_interleaved(random, _told(random, facts), num_lookups, facts, late=late))
    return _written(random, events, facts, length=length, count=count, filler_after=len(events))


def probing_document(
    random: Random, facts: Sequence[Fact], *, length: int, asked: Sequence[int], count: Count = count_words
) -> list[Segment]:
    """Facts are told all over the document; those whose first record is the `asked`-th come at its end."""
    told = _told(random, facts)
    firsts = [event.fact for event in told if event.record == 0]
    lookups = [_Event(firsts[place], None) for place in asked]
    return _written(random, [*told, *lookups], facts, length=length, count=count, filler_after=len(told))


def spread(random: Random, num_lookups: int, num_facts: int) -> list[int]:
    """Which facts to ask for: one of each of `num_lookups` equal stretches of their order, shuffled.

    None twice, or its answer would stand in the text before it is asked for: ValueError where there are fewer
    facts than that.
    """
    if num_lookups > num_facts:
        raise ValueError(f"{num_lookups} look-ups of {num_facts} facts: ask for each fact once at most")
    ends = [stretch * num_facts // num_lookups for stretch in range(num_lookups + 1)]
    places = [first + int(random.random() * (end - first)) for first, end in pairwise(ends)]
    random.shuffle(places)
    return places


def _told(random: Random, facts: Sequence[Fact]) -> list[_Event]:
    order = [number for number, fact in enumerate(facts) for _ in fact.records]
    random.shuffle(order)
    told = [0] * len(facts)
    events = []
    for number in order:
        events.append(_Event(number, told[number]))
        told[number] += 1
    return events


def _interleaved(
    random: Random, told: Sequence[_Event], num_lookups: int, facts: Sequence[Fact], *, late: bool
) -> Iterator[_Event]:
    waiting: list[int] = []  # told, not yet asked for
    known: list[int] = []
    records = iter(told)
    left, asks = len(told), num_lookups
    while left or asks:
        ask = bool(known and asks) and (not left or (not late and random.random() < asks / (asks + left)))
        if ask:
            number = waiting.pop(random.randrange(len(waiting))) if waiting else random.choice(known)
            yield _Event(number, None)
            asks -= 1
            continue
        event = next(records)
        yield event
        left -= 1
        if event.record == len(facts[event.fact].records) - 1:
            known.append(event.fact)
            waiting.append(event.fact)


def _written(
    random: Random,
    events: Sequence[_Event],
    facts: Sequence[Fact],
    *,
    length: int,
    count: Count,
    filler_after: int,
) -> list[Segment]:
    """The events with filler between the first `filler_after` of them, before these and after."""
    spare = length - END_TOKENS - sum(_tokens(event, facts[event.fact], count) for event in events)
    if spare < 0:
        raise ValueError(
            f"{len(events)} records and lookups need {length - spare} tokens, the document has {length}; "
            "ask for fewer of them or for a longer document"
        )
    gaps = _gaps(random, spare, filler_after, count)
    starts: dict[int, int] = {}
    segments: list[Segment] = []
    written = 0
    for number, event in enumerate(events):
        if number <= filler_after and gaps[number]:
            segments.append(Segment(gaps[number]))
            written += count(gaps[number])
        if event.record == 0:
            starts[event.fact] = written
        segments += _segments(event, facts[event.fact], starts.get(event.fact, 0) / length)
        written += _tokens(event, facts[event.fact], count)
    if filler_after == len(events) and gaps[-1]:
        segments.append(Segment(gaps[-1]))
    return segments


def _segments(event: _Event, fact: Fact, depth: float) -> list[Segment]:
    if event.record is not None:
        return [Segment(f" {fact.records[event.record]}")]
    asked = [Segment(f" {fact.question}"), Segment(f" {fact.answer}", depth)]
    return [*asked, Segment(fact.tail)] if fact.tail else asked


def _tokens(event: _Event, fact: Fact, count: Count) -> int:
    return sum(count(segment.text) for segment in _segments(event, fact, 0.0))


def _gaps(random: Random, spare: int, num_items: int, count: Count) -> list[str]:
    """`num_items + 1` stretches of one filler text of `spare` tokens at most, cut at uniform places."""
    words: list[str] = []
    for word in filler(random):
        cost = count(f" {word}")
        if cost > spare:
            break
        words.append(f" {word}")
        spare -= cost
    cuts = sorted(random.randint(0, len(words)) for _ in range(num_items))
    bounds = zip([0, *cuts], [*cuts, len(words)], strict=True)
    return ["".join(words[start:end]) for start, end in bounds]
