"""Long context: synthetic documents to train on, and the evaluation by task, length and depth."""

from typing import ClassVar, Literal

from pydantic import Field

from k15.config import Config
from k15.recipes.stage import StageRecipe


class Language(Config):
    """How facts are told, and of how many words."""

    style: Literal["terse", "prose"] = "terse"
    num_keys: int = Field(256, ge=2)
    num_values: int = Field(90, ge=2)


class Documents(Config):
    """Documents of one length, in words; the end of a document counts as one.

    The number of facts is drawn for each; look-ups beyond it ask for a fact again.
    """

    count: int = Field(ge=1)
    length: int = Field(ge=8)
    least_facts: int = Field(ge=1)
    most_facts: int = Field(ge=1)
    lookups: int = Field(ge=1)
    hops: int = Field(0, ge=0, description="0: a record tells the value; n: through a chain of n other keys")


class CorpusRecipe(StageRecipe):
    """Synthetic documents with facts to look up, as text: a part of the artifact for each name in `parts`."""

    kind: ClassVar[str] = "corpus"
    version: ClassVar[int] = 1

    seed: int = 0
    language: Language = Language()
    parts: dict[str, tuple[Documents, ...]] = Field(min_length=1)


class ContextTask(Config):
    """What is asked of a document."""

    hops: int = Field(0, ge=0, description="0: retrieval; n: variable tracking through n keys")


class ContextRecipe(StageRecipe):
    """Greedy accuracy of every model given as role `model.<name>`, by task, length and depth of the fact."""

    kind: ClassVar[str] = "context"
    version: ClassVar[int] = 2
    optional_roles: ClassVar[tuple[str, ...]] = ("model.*",)

    seed: int = 0
    language: Language = Language()
    tasks: dict[str, ContextTask] = {"retrieval": ContextTask(hops=0), "tracking": ContextTask(hops=1)}
    lengths: tuple[int, ...] = Field(min_length=1, description="of a document, in the model's tokens")
    depths: int = Field(4, ge=1, description="equal stretches of a document, by where a fact is first told")
    documents: int = Field(32, ge=1, description="of each task and length")
    lookups: int = Field(16, ge=1, description="at the end of each document, spread over its facts")
    tokens_per_record: int = Field(16, ge=4, description="how thinly records lie in a document")
    rope_bases: dict[str, float] = Field(
        {}, description="models evaluated with another RoPE base than theirs"
    )
    usable_accuracy: float = Field(
        0.9, gt=0, le=1, description="at every depth of a length that counts as usable"
    )
    max_tokens_per_microbatch: int = Field(4096, ge=8, description="a document is never split")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="CUDA asks for bfloat16")
