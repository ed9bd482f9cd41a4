"""An SFT stage as torchrun starts it: late.py SECONDS STAGE'S-ARGUMENTS…

The first rank begins SECONDS late, which is longer than ranks wait for each other within an operation.
"""

import os
import sys
import time
from datetime import timedelta

from k15.engines.megatron import parallel, ranks
from k15.recipes.supervised import SftRecipe
from k15.stage import run_stage
from stages.sft import body

if __name__ == "__main__":
    seconds = float(sys.argv.pop(1))
    parallel.COLLECTIVE = timedelta(seconds=seconds / 2)
    if os.environ["RANK"] == "0":
        time.sleep(seconds)
    run_stage(SftRecipe, body, meet=ranks.meet)
