"""Long paths found by sampling a model and checking its answers (METHOD.md §7)."""

from typing import ClassVar, Literal

from pydantic import Field

from k15.recipes.stage import StageRecipe


class PathsRecipe(StageRecipe):
    """Rejection sampling: the verified responses of input `model` to input `prompts`, as demonstrations."""

    kind: ClassVar[str] = "paths"
    version: ClassVar[int] = 4
    roles: ClassVar[tuple[str, ...]] = ("model", "prompts")

    seed: int = 0
    num_prompts: int = Field(0, ge=0, description="the first of them; 0: all")
    samples_per_prompt: int = Field(8, ge=1)
    max_response_tokens: int = Field(64, ge=1, description="a response cut by it is not kept")
    temperature: float = Field(1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    instruction: str = Field(
        "", description="put before a question while sampling, and left out of its demonstration"
    )
    keep: Literal["longest", "shortest", "all"] = Field(
        "longest", description="of a prompt's verified responses"
    )
    min_tokens: int = Field(0, ge=0, description="a shorter response is no long path and is not kept")
