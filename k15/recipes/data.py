"""Prompts, demonstrations and pretraining text; and the base model with its tokenizer."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from k15.config import Config
from k15.recipes.stage import StageRecipe


class Family(Config):
    """One reasoning-gym family: its weight in the mixture and its generator's parameters."""

    weight: float = Field(1.0, gt=0)
    params: dict[str, Any] = {}


class DataRecipe(StageRecipe):
    """Parts of the artifact: train, heldout (Prompts); pretrain (text); sft, longcot (demonstrations).

    With a file in role `questions` (JSONL of question and answer) the prompts are the user's own.
    """

    kind: ClassVar[str] = "data"
    version: ClassVar[int] = 2
    optional_roles: ClassVar[tuple[str, ...]] = ("questions", "heldout_questions")

    seed: int = 0
    families: dict[str, Family] = {}
    num_train: int = Field(20_000, ge=1)
    num_heldout: int = Field(1_000, ge=1)
    num_pretrain: int = Field(20_000, ge=0)
    num_sft: int = Field(10_000, ge=1)
    num_longcot: int = Field(10_000, ge=1)
    sft_styles: dict[str, float] = {"short": 1.0}
    longcot_styles: dict[str, float] = {"direct": 0.5, "reflective": 0.5}
    pretrain_bare_share: float = Field(0.4, ge=0, le=1, description="rows of bare work, without a question")


class BaseRecipe(StageRecipe):
    """The untrained (or given) model and its tokenizer, as a Hugging Face directory.

    `source = "directory"` takes the one in role `model`: files = { model = "/models/Qwen3-0.6B" }.
    """

    kind: ClassVar[str] = "base"
    version: ClassVar[int] = 2
    optional_roles: ClassVar[tuple[str, ...]] = ("data", "model")

    seed: int = 0
    source: Literal["random", "smollm2", "directory"] = "random"
    family: Literal["qwen3", "qwen2"] = Field("qwen3", description="of a random model")
    vocab_size: int = Field(512, ge=64)
    pieces: Literal["phrases", "words"] = Field("phrases", description="what a token spans at most")
    hidden_size: int = 128
    intermediate_size: int = 336
    num_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    rope_base: float = 10_000.0
    max_position_embeddings: int = 512
    tie_word_embeddings: bool = False
    initializer_range: float = Field(0.08, gt=0)
    bias_range: float = Field(0.05, ge=0, description="of queries, keys and values in a qwen2: ± this")
    embedding_range: float = Field(1.0, gt=0, description="of the input embeddings, where they are not tied")
