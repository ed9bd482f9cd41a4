"""Synthetic documents: exact lengths, every answer told before it is asked for, at the depth it says."""

import itertools
from collections.abc import Sequence
from random import Random

import pytest

from k15.recipes.context import Documents, Language
from k15.tasks.long_context.corpus import texts
from k15.tasks.long_context.documents import (
    Segment,
    count_words,
    mixed_document,
    probing_document,
    spread,
    text_of,
)
from k15.tasks.long_context.facts import STYLES, Fact, draw_facts
from k15.tasks.long_context.words import FILLER, KEYS, VALUES, Lexicon
from k15.tasks.tokenizer import train_tokenizer

pytestmark = pytest.mark.engine
CASES = [(style, hops) for style in STYLES for hops in (0, 2)]


def facts(random: Random, count: int, hops: int, style: str) -> list[Fact]:
    return draw_facts(random, count, hops=hops, style=STYLES[style], lexicon=Lexicon())


def check_answers(segments: Sequence[Segment], stated: Sequence[Fact]) -> int:
    """Every look-up comes after all records of its fact and is answered by its value; returns how many."""
    by_question = {fact.question: fact for fact in stated}
    before = ""
    for question, answer in itertools.pairwise(segments):
        before += question.text
        if answer.is_answer:
            fact = by_question[question.text.strip()]
            places = [before.index(f" {record}") for record in fact.records]
            assert places == sorted(places)
            assert answer.text.strip() == fact.answer
    return sum(segment.is_answer for segment in segments)


def check_repeats(segments: Sequence[Segment], stated: Sequence[Fact]) -> None:
    """A fact is asked for again only where every other told so far has been."""
    text = ""
    asked: set[str] = set()
    for segment in segments:
        question = segment.text.strip()
        if question in asked:
            told = {fact.question for fact in stated if f" {fact.records[-1]}" in text}
            assert told <= asked
        if question in {fact.question for fact in stated}:
            asked.add(question)
        text += segment.text


def test_words_of_one_kind_are_of_no_other() -> None:
    words = [*KEYS, *VALUES, *FILLER]
    assert len(words) == len(set(words)) == 256 + 90 + 65


@pytest.mark.parametrize(("style", "hops"), CASES)
def test_mixed_documents_have_their_length_and_tell_before_they_ask(style: str, hops: int) -> None:
    random = Random(1)
    late = 0
    for length in (250, 400):
        for _ in range(20):
            stated = facts(random, 6, hops, style)
            segments = mixed_document(random, stated, length=length, num_lookups=9)
            assert count_words(text_of(segments)) + 1 == length
            assert check_answers(segments, stated) == 9
            check_repeats(segments, stated)
            first_answer = next(place for place, segment in enumerate(segments) if segment.is_answer)
            after = {segment.text for segment in segments[first_answer:]}
            late += not any(f" {record}" in after for fact in stated for record in fact.records)
    assert 10 <= late <= 35


@pytest.mark.parametrize(("style", "hops"), CASES)
def test_probing_documents_ask_at_the_end_for_facts_of_every_depth(style: str, hops: int) -> None:
    random = Random(2)
    stated = facts(random, 12, hops, style)
    segments = probing_document(random, stated, length=500, asked=spread(random, 6, 12))
    assert count_words(text_of(segments)) + 1 == 500
    assert check_answers(segments, stated) == 6
    ends = next(place for place, segment in enumerate(segments) if segment.is_answer)
    words = text_of(segments).split()
    for question, answer in zip(segments[ends - 1 :], segments[ends:], strict=False):
        if answer.depth is not None:
            fact = next(fact for fact in stated if fact.question == question.text.strip())
            record = fact.records[0].split()
            start = round(answer.depth * 500)
            assert words[start : start + len(record)] == record
    depths = sorted(segment.depth for segment in segments if segment.depth is not None)
    assert depths[0] < 0.25 and depths[-1] > 0.6 / (hops + 1)


def test_spread_takes_one_of_each_stretch() -> None:
    for seed in range(20):
        places = sorted(spread(Random(seed), 5, 50))
        assert [place // 10 for place in places] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("lookups", "num_facts"), [(9, 12), (16, 17), (16, 31), (2, 5), (7, 7), (5, 50)])
def test_spread_asks_for_no_fact_twice(lookups: int, num_facts: int) -> None:
    drawn = [spread(Random(seed), lookups, num_facts) for seed in range(100)]
    assert all(len(set(places)) == lookups for places in drawn)
    assert set().union(*drawn) == set(range(num_facts))
    with pytest.raises(ValueError, match="8 look-ups of 7 facts"):
        spread(Random(0), 8, 7)


def test_lengths_count_the_tokens_of_a_tokenizer() -> None:
    random = Random(3)
    stated = facts(random, 8, 1, "prose")
    tokenizer = train_tokenizer(["The number of red-cat is that of old-dog . What ? It"] * 5, 280, "words")

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    segments = probing_document(random, stated, length=1200, asked=[0, 7], count=count)
    size = count(text_of(segments))
    assert size == sum(count(segment.text) for segment in segments)
    assert 1190 < size + 1 <= 1200


def test_too_many_facts_for_a_document_or_for_the_keys_are_refused() -> None:
    random = Random(4)
    with pytest.raises(ValueError, match="need 51 tokens, the document has 40"):
        mixed_document(random, facts(random, 5, 0, "terse"), length=40, num_lookups=20)
    with pytest.raises(ValueError, match="100 facts of 2 hops need 300 keys; there are 256"):
        facts(random, 100, 2, "terse")
    with pytest.raises(ValueError, match="num_keys = 300, num_values = 64: there are 256 keys"):
        Lexicon.of_size(300, 64)


def test_a_corpus_is_the_same_for_the_same_seed() -> None:
    kind = Documents(count=30, length=64, least_facts=2, most_facts=6, lookups=8)
    first, again, other = (list(texts(kind, Language(), seed=seed)) for seed in ("a", "a", "b"))
    assert first == again
    assert not set(first) & set(other)
    assert {count_words(text) for text in first} == {63}
