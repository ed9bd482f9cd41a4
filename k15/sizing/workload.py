"""What a stage asks of the trainer in a step, read from its recipe."""

from dataclasses import dataclass

from k15.recipes import StageRecipe
from k15.recipes.activation import ActivateRecipe
from k15.recipes.rl import RlRecipe
from k15.recipes.supervised import SupervisedRecipe


@dataclass(frozen=True, slots=True)
class Workload:
    """The largest step of a stage: every row as long as the recipe allows."""

    row_tokens: int
    microbatch_tokens: int  # a forward pass of one copy of the model
    step_tokens: int  # an update's, over all copies

    @property
    def num_microbatches(self) -> int:
        """In an update, over all copies of the model."""
        return -(-self.step_tokens // self.microbatch_tokens)


def of(recipe: StageRecipe) -> Workload | None:
    """The workload of a stage that trains; None for the other kinds.

    Of several phases it is the one with the longest rows. An RL row is taken as a whole response; the prompt
    before it is not in the recipe. A row longer than a microbatch is refused when the stage runs, so none is
    counted.
    """
    if isinstance(recipe, SupervisedRecipe):
        stretch = max(recipe.all_phases(), key=lambda phase: phase.max_tokens)
        length, rows = stretch.max_tokens, stretch.sequences_per_step or stretch.examples_per_step
        limit = recipe.max_tokens_per_microbatch
    elif isinstance(recipe, ActivateRecipe):
        phase = max(recipe.phases, key=lambda phase: phase.length)
        length, rows, limit = phase.length, phase.sequences_per_step, recipe.max_tokens_per_microbatch
    elif isinstance(recipe, RlRecipe):
        rows = -(-recipe.prompts_per_round // recipe.update.minibatches) * recipe.samples_per_prompt
        length, limit = recipe.max_response_tokens, recipe.update.max_tokens_per_microbatch
    else:
        return None
    length = min(length, limit)
    return Workload(length, min(limit, length * rows), length * rows)
