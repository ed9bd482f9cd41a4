"""Rows packed into sequences against the same rows each on its own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from k15.algo.packing import best_fit
from k15.engines.megatron.trainer import MegatronTrainer
from k15.recipes.supervised import Optimizer
from k15.records import Sequence as Row
from tests.engines.megatron.conftest import VOCABULARY, MakeModel

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")]
CAPACITY = 256
# With so large an epsilon Adam's step is nearly proportional to the gradient, so weights show it.
PLAIN = Optimizer(adam_epsilon=1.0, clip_gradient_norm=1e6, weight_decay=0.0)


def some_rows(number: int) -> list[Row]:
    """Rows of widely different lengths, questions out of the loss."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(number):
        asked, answered = (int(n) for n in torch.randint(2, 100, (2,), generator=generator))
        tokens = torch.randint(VOCABULARY, (asked + answered,), generator=generator).tolist()
        rows.append(Row(tuple(tokens), (False,) * asked + (True,) * answered))
    return rows


def literal(model: Any, rows: list[Row]) -> tuple[float, dict[str, torch.Tensor]]:
    """Mean cross-entropy per loss token and its gradient, a row at a time, on Hugging Face's model."""
    total = torch.zeros(())
    for row in rows:
        tokens = torch.tensor(row.token_ids)[None]
        logprobs = model(tokens[:, :-1]).logits[0].log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        total = total - logprobs[torch.tensor(row.in_loss[1:])].sum()
    loss = total / sum(sum(row.in_loss) for row in rows)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def packed_step(directory: Path, rows: list[Row]) -> tuple[float, dict[str, torch.Tensor]]:
    """The trainer's loss on packed rows, and its gradient: Adam's first step g / (|g| + 1), turned round."""
    trainer = MegatronTrainer(directory, threads=1, max_tokens_per_microbatch=CAPACITY)
    trainer.reset_optimizer(PLAIN)
    before = {name: tensor.clone() for name, tensor in trainer.tensors()}
    values = trainer.supervised_step(rows, lr=1.0)
    steps = {name: before[name] - tensor for name, tensor in trainer.tensors()}
    return values["loss"], {name: step / (1 - step.abs()) for name, step in steps.items()}


def test_packing_changes_neither_loss_nor_gradient(make_model: MakeModel) -> None:
    rows = some_rows(40)
    sequences = best_fit([len(row.token_ids) for row in rows], CAPACITY)
    assert max(map(len, sequences)) > 2
    directory, reference = make_model("qwen3", tied=False)
    loss, gradient = packed_step(directory, [rows[index] for indices in sequences for index in indices])
    expected_loss, expected = literal(reference, rows)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradient.keys() == expected.keys()
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    assert max(float((gradient[name] - expected[name]).abs().max()) for name in expected) < 1e-4 * largest
