"""Stages that fit tokens: pretraining, long-context activation, SFT, long-CoT SFT (METHOD.md §7)."""

from typing import ClassVar, Literal

from pydantic import Field

from k15.config import Config
from k15.recipes.stage import StageRecipe


class Optimizer(Config):
    """AdamW and its schedule."""

    lr: float = Field(1e-3, gt=0)
    final_lr: float = Field(1e-4, ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(20, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    adam_epsilon: float = 1e-8
    clip_gradient_norm: float = Field(1.0, gt=0)


class SupervisedRecipe(StageRecipe):
    """Fields every supervised stage has."""

    roles: ClassVar[tuple[str, ...]] = ("model", "data")

    seed: int = 0
    steps: int = Field(ge=1)
    examples_per_step: int = Field(96, ge=1)
    max_tokens: int = Field(512, ge=8, description="longer examples are refused, never cut silently")
    max_tokens_per_microbatch: int = Field(4096, ge=8, description="a row is never split")
    optimizer: Optimizer = Optimizer()


class PretrainRecipe(SupervisedRecipe):
    """Next-token prediction on every token of the rows."""

    kind: ClassVar[str] = "pretrain"


class ContextPhase(Config):
    """One length of the activation: documents of this length, for some steps."""

    length: int = Field(ge=16)
    steps: int = Field(ge=1)
    sequences_per_step: int = Field(ge=1)


class ActivateRecipe(StageRecipe):
    """Long-context activation: a new RoPE base, then growing lengths."""

    kind: ClassVar[str] = "activate"
    version: ClassVar[int] = 1
    roles: ClassVar[tuple[str, ...]] = ("model", "data")

    seed: int = 0
    rope_base: float = Field(1_000_000.0, gt=1)
    phases: tuple[ContextPhase, ...] = Field(min_length=1)
    full_attention_share: float = Field(
        0.4, ge=0, le=1, description="rows of full length; the rest packs short ones"
    )
    max_tokens_per_microbatch: int = Field(4096, ge=8, description="a row is never split")
    optimizer: Optimizer = Optimizer()


class SftRecipe(SupervisedRecipe):
    """Loss on responses only."""

    kind: ClassVar[str] = "sft"


class LongCotRecipe(SupervisedRecipe):
    """The light SFT on verified long paths."""

    kind: ClassVar[str] = "longcot"
