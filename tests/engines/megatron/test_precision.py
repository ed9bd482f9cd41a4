"""bf16 with fp32 master weights, and recomputed activations, against the plain trainer."""

from pathlib import Path

import pytest
import torch

from k15.engines.megatron.architecture import dtype
from k15.engines.megatron.batch import pack
from k15.engines.megatron.loss_model import logprobs
from k15.engines.megatron.model import load
from k15.engines.megatron.trainer import MegatronTrainer
from k15.recipes.supervised import Optimizer
from tests.engines.megatron.conftest import MakeModel
from tests.engines.megatron.test_trainer import distance, some_rows, trainer_of, weights_of

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")]
UP = "model.layers.0.mlp.up_proj.weight"


def bf16_trainer(directory: Path) -> MegatronTrainer:
    return MegatronTrainer(directory, threads=1, max_tokens_per_microbatch=4096, precision="bfloat16")


def saved_bytes(directory: Path, *, recompute: bool) -> int:
    """Bytes that autograd keeps from a forward pass on."""
    kept = 0

    def note(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    module = load(directory, recompute=recompute).module
    rows = some_rows(30)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logprobs(module, pack(rows, range(len(rows)), cuda=False))
    return kept


def test_recomputing_changes_memory_and_nothing_else(make_model: MakeModel) -> None:
    directory, _ = make_model()
    plain = trainer_of(directory)
    again = MegatronTrainer(directory, threads=1, max_tokens_per_microbatch=4096, recompute=True)
    start = weights_of(plain)
    figures = []
    for trainer in (plain, again):
        trainer.reset_optimizer(Optimizer(adam_epsilon=1.0))
        figures.append(trainer.supervised_step(some_rows(12), lr=0.1))
    assert figures[0] == pytest.approx(figures[1], rel=1e-6)
    assert distance(weights_of(plain), start) > 1e-3
    assert distance(weights_of(plain), weights_of(again)) < 1e-7
    assert saved_bytes(directory, recompute=True) < 0.5 * saved_bytes(directory, recompute=False)


def test_bf16_is_near_fp32_and_is_written_as_bf16(make_model: MakeModel) -> None:
    directory, _ = make_model()
    exact = trainer_of(directory).supervised_step(some_rows(12), lr=0.0)
    trainer = bf16_trainer(directory)
    rounded = trainer.supervised_step(some_rows(12), lr=0.0)
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.01)
    assert rounded["gradient_norm"] == pytest.approx(exact["gradient_norm"], rel=0.05)
    assert {spec.dtype for spec in trainer.layout()} == {"bfloat16"}


def test_updates_smaller_than_bf16_can_hold_add_up_in_the_master_weights(make_model: MakeModel) -> None:
    trainer = bf16_trainer(make_model()[0])
    trainer.reset_optimizer(Optimizer(weight_decay=0.0, adam_epsilon=1e-12))
    start = weights_of(trainer)[UP]
    rate = 1e-5  # a step of Adam's; bf16 tells weights of about 0.1 apart by 5e-4
    steps = 60
    for _ in range(steps):
        trainer.supervised_step(some_rows(4), lr=rate)
    moved = (weights_of(trainer)[UP] - start).float()
    assert float(moved.abs().mean()) == pytest.approx(steps * rate, rel=0.3)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision='fp8': use one of float32, bfloat16"):
        dtype("fp8", cuda=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'precision="float32": on CUDA the layers train in bf16'):
        dtype("float32", cuda=True)
