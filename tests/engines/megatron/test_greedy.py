"""Greedy matches against Hugging Face's own argmax."""

from typing import Any

import pytest
import torch

from k15.engines.megatron.trainer import MegatronTrainer
from k15.records import Sequence as Row
from tests.engines.megatron.conftest import VOCABULARY, MakeModel

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning:megatron")]


@torch.no_grad()
def best_after(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The most likely next token after each, [1, t]."""
    return model(tokens).logits.argmax(-1)


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_matches_where_it_is_the_most_likely(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, tied: bool
) -> None:
    monkeypatch.setattr("k15.engines.megatron.token_logprobs.CHUNK_BYTES", 7 * 4 * VOCABULARY)
    directory, reference = make_model(tied=tied)
    generator = torch.Generator().manual_seed(1)
    rows, expected = [], []
    for length in (40, 5, 23, 23):
        tokens = torch.randint(VOCABULARY, (1, length), generator=generator)
        for place in range(2, length, 2):  # every second token is the most likely one after those before it
            tokens[0, place] = best_after(reference, tokens[:, :place])[0, -1]
        in_loss = [False, *(torch.rand(length - 1, generator=generator) < 0.7).tolist()]
        best = best_after(reference, tokens)[0, :-1] == tokens[0, 1:]
        rows.append(Row(tuple(tokens[0].tolist()), tuple(in_loss)))
        expected.append([bool(hit) for hit, kept in zip(best, in_loss[1:], strict=True) if kept])
    trainer = MegatronTrainer(directory, threads=1, max_tokens_per_microbatch=64)
    assert trainer.greedy_matches(rows) == expected
    assert {hit for row in expected for hit in row} == {True, False}
