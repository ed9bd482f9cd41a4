"""One recipe per kind of stage. Light: the flows read these without torch."""

from k15.recipes.activation import ActivateRecipe
from k15.recipes.context import ContextRecipe, CorpusRecipe
from k15.recipes.data import BaseRecipe, DataRecipe
from k15.recipes.evaluate import EvaluateRecipe
from k15.recipes.paths import PathsRecipe
from k15.recipes.pipeline import Node, Pipeline, Resources, producers
from k15.recipes.rl import MergeRecipe, RlRecipe
from k15.recipes.stage import StageRecipe
from k15.recipes.supervised import LongCotRecipe, PretrainRecipe, SftRecipe

KINDS: dict[str, type[StageRecipe]] = {
    recipe.kind: recipe
    for recipe in (
        DataRecipe,
        BaseRecipe,
        PretrainRecipe,
        ActivateRecipe,
        SftRecipe,
        PathsRecipe,
        LongCotRecipe,
        RlRecipe,
        MergeRecipe,
        EvaluateRecipe,
        CorpusRecipe,
        ContextRecipe,
    )
}

__all__ = ["KINDS", "Node", "Pipeline", "Resources", "StageRecipe", "producers"]
