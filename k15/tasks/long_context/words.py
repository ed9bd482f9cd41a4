"""The words of synthetic documents: short English ones, a token each in most tokenizers.

Keys, values and filler share no word, so nothing but its record tells a key's value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

_ADJECTIVES = "red old big hot dry wet odd shy raw new sad fat dim icy mad low"
_ANIMALS = "cat dog cow hen pig fox owl bee ant elk rat bat eel yak jay ape"
_FILLER = """
the a of and to in on at by we he it is was are but or so if as up out off all no not now then here there when
who how why can may did has had will one two few many more most some any each both day sun sea sky way road
tree hill rain wind door room food time hand
"""
KEYS = tuple(f"{adjective}-{animal}" for animal in _ANIMALS.split() for adjective in _ADJECTIVES.split())
VALUES = tuple(str(number) for number in range(10, 100))
FILLER = tuple(_FILLER.split())
SUCCESSORS = 4  # words that may follow a filler word, all as likely: 2 bits a word once they are known
_TEXT_SEED = 7  # the language is the same for every document and every seed of a recipe

_random = Random(_TEXT_SEED)
_FOLLOWING = {word: tuple(_random.sample(FILLER, SUCCESSORS)) for word in FILLER}


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The keys and values that documents draw from."""

    keys: Sequence[str] = KEYS
    values: Sequence[str] = VALUES

    @classmethod
    def of_size(cls, num_keys: int, num_values: int) -> "Lexicon":
        """The first of them; ValueError where there are not so many."""
        if num_keys > len(KEYS) or num_values > len(VALUES):
            raise ValueError(
                f"num_keys = {num_keys}, num_values = {num_values}: there are {len(KEYS)} keys and "
                f"{len(VALUES)} values"
            )
        return cls(KEYS[:num_keys], VALUES[:num_values])


def filler(random: Random) -> Iterator[str]:
    """Endless text without records: each word one of the few that may follow the last."""
    word = random.choice(FILLER)
    while True:
        yield word
        word = random.choice(_FOLLOWING[word])
