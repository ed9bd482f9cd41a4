"""Reward evaluation: several models on the same held-out prompts."""

from typing import ClassVar, Literal

from pydantic import Field

from k15.recipes.stage import StageRecipe


class EvaluateRecipe(StageRecipe):
    """Sampled and greedy pass@1 and mean tokens of every model given as role `model.<name>`."""

    kind: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 4
    roles: ClassVar[tuple[str, ...]] = ("prompts",)
    optional_roles: ClassVar[tuple[str, ...]] = ("model.*",)

    seed: int = 0
    num_prompts: int = Field(1000, ge=1)
    samples_per_prompt: int = Field(4, ge=1)
    max_response_tokens: int = Field(64, ge=1)
    temperature: float = Field(1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    bootstrap_draws: int = Field(2000, ge=100)
    sample_trajectories: int = Field(6, ge=0, description="prompts whose responses the report shows")
