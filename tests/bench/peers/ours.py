"""Our side of the training benchmark: ours.py FOLDER WORKLOAD ROWS_PER_STEP NUM_STEPS"""

import json
import sys
import warnings
from pathlib import Path

from k15.engines.megatron.trainer import MegatronTrainer
from k15.recipes.supervised import Optimizer
from k15.records import Sequence
from tests.bench.peers.rounds import Turns
from tests.bench.peers.settings import BETAS, CLIP, EPSILON, RATE


def main(folder: Path, workload: str, rows_per_step: int, num_steps: int) -> None:
    """A microbatch a step: its rows are packed, so it holds no padding."""
    rows = [
        Sequence(tuple(row["token_ids"]), tuple(row["in_loss"]))
        for row in map(json.loads, (folder / f"{workload}.jsonl").read_text().splitlines())
    ]
    trainer = MegatronTrainer(folder / "model", threads=1, max_tokens_per_microbatch=8192)
    trainer.reset_optimizer(
        Optimizer(
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            adam_epsilon=EPSILON,
            clip_gradient_norm=CLIP,
            weight_decay=0.0,
        )
    )
    turns = Turns()
    for step in range(num_steps):
        turns.before_step()
        figures = trainer.supervised_step(rows[step * rows_per_step : (step + 1) * rows_per_step], lr=RATE)
        turns.after_step()
        turns.note_loss(figures["loss"])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
