"""What a trainer offloads leaves nothing behind, and comes back to the bit."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from k15.engines.megatron import optimizer as adam
from k15.engines.megatron.trainer import MegatronTrainer
from k15.recipes.supervised import Optimizer
from tests.engines.megatron.conftest import MakeModel
from tests.engines.megatron.layouts import LIMIT, some_rows

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")]


def storages(trainer: MegatronTrainer) -> Iterator[torch.UntypedStorage]:
    """All that grows with the model: weights, gradients, masters, moments."""
    for parameter in trainer._model.module.parameters():
        yield parameter.untyped_storage()
        yield parameter.main_grad.untyped_storage()
    for inner in adam.inner(trainer._optimizer):
        for group in inner.param_groups:
            for master in group["params"]:
                yield master.untyped_storage()
                for value in inner.state[master].values():
                    if torch.is_tensor(value) and value.dim():
                        yield value.untyped_storage()


def trained(model: Path, precision: str) -> MegatronTrainer:
    trainer = MegatronTrainer(model, threads=1, max_tokens_per_microbatch=LIMIT, precision=precision)
    trainer.reset_optimizer(Optimizer())
    trainer.supervised_step(some_rows(), lr=1e-2)
    return trainer


@pytest.mark.parametrize(("precision", "bytes_each"), [("float32", 16), ("bfloat16", 18)])
def test_training_goes_on_to_the_bit(make_model: MakeModel, precision: str, bytes_each: int) -> None:
    model = make_model(vocabulary=512)[0]
    trainer = trained(model, precision)
    for _ in range(2):
        moved = trainer.offload()
        assert moved == bytes_each * trainer.num_parameters
        assert {storage.nbytes() for storage in storages(trainer)} == {0}
        assert trainer.offload() == 0
        assert trainer.onload() == moved
        assert trainer.onload() == 0
    other = trained(model, precision)
    for _ in range(2):
        assert trainer.supervised_step(some_rows(), lr=1e-2) == other.supervised_step(some_rows(), lr=1e-2)
    for (name, mine), (_, theirs) in zip(trainer.tensors(), other.tensors(), strict=True):
        assert torch.equal(mine, theirs), name


def test_the_memory_of_one_turn_serves_the_next(make_model: MakeModel) -> None:
    trainer = trained(make_model()[0], "float32")
    trainer.offload()
    kept = trainer._host._memory
    trainer.onload()
    trainer.reset_optimizer(Optimizer())  # new moments, in storages of their own
    trainer.supervised_step(some_rows(), lr=1e-2)
    trainer.offload()
    assert trainer._host._memory is kept
