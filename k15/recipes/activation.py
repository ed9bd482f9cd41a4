"""Long-context activation (METHOD.md §7)."""

from collections.abc import Collection
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from k15.config import Config
from k15.recipes.supervised import FitRecipe, Mixture, data_names, data_role, refuse_weights


class ContextPhase(Config):
    """One length of the activation: documents of this length, for some steps."""

    length: int = Field(ge=16)
    steps: int = Field(ge=1)
    sequences_per_step: int = Field(ge=1)
    full: Mixture = Field(
        {}, description="data sets of the rows of full length (long QA, long text, summaries)"
    )
    partial: Mixture = Field(
        {}, description="data sets of the rows packed with short documents (cooldown data)"
    )
    mixture_by: Literal["examples", "tokens"] = Field(
        "tokens", description="what the weights of both are shares of"
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if bool(self.full) != bool(self.partial):
            raise ValueError(f"length {self.length}: give full and partial mixtures, or neither")
        refuse_weights("full", self.full)
        refuse_weights("partial", self.partial)
        return self


class ActivateRecipe(FitRecipe):
    """Long-context activation: a new RoPE base, then growing lengths."""

    kind: ClassVar[str] = "activate"

    rope_base: float = Field(1_000_000.0, gt=1)
    phases: tuple[ContextPhase, ...] = Field(min_length=1)
    full_attention_share: float = Field(
        0.4, ge=0, le=1, description="of the tokens, in rows of full length; the rest packs short ones"
    )
    length_upsampling: float = Field(
        0.0, ge=0, description="rows of full length draw documents ∝ length to this power; 0: each in turn"
    )

    def role_problems(self, roles: Collection[str]) -> tuple[str, ...]:
        """Those of every such stage, and a data set that no phase draws from."""
        drawn = {name for mixture in self.mixtures() for name in mixture}
        unused = sorted(set(data_names(roles)) - drawn) if all(self.mixtures()) else []
        problems = [
            f"inputs.{data_role(name, roles)}: no phase draws from it; leave it out" for name in unused
        ]
        return (*super().role_problems(roles), *problems)

    def mixtures(self) -> tuple[Mixture, ...]:
        """Those of its phases, of both kinds."""
        return tuple(mixture for phase in self.phases for mixture in (phase.full, phase.partial))
