"""A short training run, to be made by one process or by each rank of torchrun: two_ranks.py MODEL OUTPUT"""

import sys
import warnings
from pathlib import Path

import torch.distributed as dist

from k15.engines.megatron.trainer import MegatronTrainer
from k15.recipes.rl import PolicyUpdate
from k15.recipes.supervised import Optimizer
from k15.records import Group, Sequence

LIMIT = 24


def train(model: Path, output: Path) -> list[float]:
    """A supervised step and a policy update in many microbatches; saves the weights, returns the figures."""
    rows = [
        Sequence(tuple((7 * n + 3 * t) % 101 for t in range(6 + n)), (False,) * 3 + (True,) * (3 + n))
        for n in range(9)
    ]
    groups = [
        Group(
            str(n),
            tuple(rows[n : n + 3]),
            (1.0, 0.0, 0.0),
            tuple((-1.0,) * sum(row.in_loss) for row in rows[n : n + 3]),
        )
        for n in (0, 3, 6)
    ]
    trainer = MegatronTrainer(model, threads=1, max_tokens_per_microbatch=LIMIT)
    trainer.reset_optimizer(Optimizer(adam_epsilon=1.0))
    loss = trainer.supervised_step(rows, lr=0.1)["loss"]
    settings = PolicyUpdate(adam_epsilon=1.0, max_tokens_per_microbatch=LIMIT, minibatches=2)
    stats = trainer.policy_update(groups, settings=settings, lr=0.3)
    if dist.get_rank() == 0:
        trainer.save(output)
    return [loss, stats.loss, stats.gradient_norm, stats.mismatch_mean, stats.mismatch_max]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    values = train(Path(sys.argv[1]), Path(sys.argv[2]))
    if dist.get_rank() == 0:
        print(*values)
