"""Training text: documents of several lengths, the short and dense ones to learn a look-up by."""

from collections.abc import Iterator
from random import Random

from k15.recipes.context import Documents, Language
from k15.tasks.long_context.documents import mixed_document, text_of
from k15.tasks.long_context.facts import STYLES, draw_facts
from k15.tasks.long_context.words import Lexicon


def texts(documents: Documents, language: Language, *, seed: str) -> Iterator[str]:
    """The documents of one kind, in order. ValueError where one cannot hold its facts and look-ups."""
    random = Random(seed)
    style = STYLES[language.style]
    lexicon = Lexicon.of_size(language.num_keys, language.num_values)
    for _ in range(documents.count):
        num_facts = random.randint(documents.least_facts, documents.most_facts)
        facts = draw_facts(random, num_facts, hops=documents.hops, style=style, lexicon=lexicon)
        segments = mixed_document(random, facts, length=documents.length, num_lookups=documents.lookups)
        yield text_of(segments)
