"""A quick stage of kind pretrain, for tests of the flow."""

from k15.recipes.supervised import PretrainRecipe
from k15.stage import run_stage
from tests.flows.stages.orders import follow

if __name__ == "__main__":
    run_stage(PretrainRecipe, follow)
