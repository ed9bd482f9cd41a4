"""Chunked log-probs against the plain formula, on one rank and with the vocabulary on two."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from k15.engines.megatron.token_logprobs import token_logprobs

pytestmark = pytest.mark.engine
L, H, V = 23, 8, 50
ROW_BYTES = 4 * V
ROOT = Path(__file__).parents[3]


def problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """States, weight and labels with log-probs from about 0 to −100."""
    generator = torch.Generator().manual_seed(3)
    states = (3 * torch.randn(L, H, generator=generator)).to(dtype)
    weight = (3 * torch.randn(V, H, generator=generator)).to(dtype)
    labels = torch.randint(V, (L,), generator=generator)
    return states.requires_grad_(), weight.requires_grad_(), labels


def plain(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return (states @ weight.t()).log_softmax(-1).gather(1, labels[:, None])[:, 0]


def results(
    function: Callable[..., Tensor], coefficients: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """Values, and the gradients of Σ coefficients · values."""
    states, weight, labels = problem(dtype)
    values = function(states, weight, labels)
    (values * coefficients).sum().backward()
    assert states.grad is not None
    assert weight.grad is not None
    return values.detach(), states.grad, weight.grad


@pytest.mark.parametrize("rows", [1, 5, 22, 23, 1000])
@pytest.mark.parametrize("known", [False, True])
def test_values_and_gradients_are_the_plain_ones(rows: int, known: bool) -> None:
    coefficients = torch.linspace(-2, 3, L)
    expected = results(plain, coefficients)
    got = results(
        lambda *parts: token_logprobs(
            *parts, chunk_bytes=rows * ROW_BYTES, weights_L=coefficients if known else None
        ),
        coefficients,
    )
    assert float(expected[0].min()) < -60
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("known", [False, True])
def test_bf16_differs_by_rounding_only(known: bool) -> None:
    coefficients = torch.full((L,), 0.25)
    exact = results(
        lambda *parts: plain(*(part.float() for part in parts[:2]), parts[2]), coefficients, torch.bfloat16
    )
    got = results(
        lambda *parts: token_logprobs(
            *parts, chunk_bytes=5 * ROW_BYTES, weights_L=coefficients if known else None
        ),
        coefficients,
        torch.bfloat16,
    )
    assert got[0].dtype == torch.float32
    assert got[1].dtype == got[2].dtype == torch.bfloat16
    for a, b in zip(got, exact, strict=True):
        assert float((a.float() - b.float()).norm()) < 0.01 * float(b.float().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("rows", [5, 1000])
def test_the_weights_gradient_is_added_to_its_buffer(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, known: bool, rows: int
) -> None:
    """Where Megatron gave the weight one, and piece by piece where the types differ."""
    monkeypatch.setattr("k15.engines.megatron.token_logprobs.PIECE_BYTES", 7 * H * 2)
    coefficients = torch.linspace(-2, 3, L)

    def ours(states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return token_logprobs(
            states, weight, labels, chunk_bytes=rows * ROW_BYTES, weights_L=coefficients if known else None
        )

    _, of_states, expected = results(ours, coefficients, dtype)
    states, weight, labels = problem(dtype)
    weight.main_grad = torch.full((V, H), 0.5)
    (ours(states, weight, labels) * coefficients).sum().backward()
    assert weight.grad is None
    assert torch.equal(states.grad, of_states)
    exact = 1e-5 if dtype == torch.float32 else 0.01
    assert float((weight.main_grad - 0.5 - expected).norm()) < exact * float(expected.float().norm())


def test_no_token_has_no_gradient() -> None:
    states, weight, labels = problem()
    values = token_logprobs(states[:0], weight, labels[:0], weights_L=torch.ones(0))
    values.sum().backward()
    assert values.shape == (0,)
    assert weight.grad is not None
    assert not weight.grad.any()


def test_another_loss_than_the_one_promised_is_refused() -> None:
    states, weight, labels = problem()
    values = token_logprobs(states, weight, labels, weights_L=torch.ones(L))
    with pytest.raises(ValueError, match="does not weigh the log-probs as weights_L says"):
        (values * torch.arange(L)).sum().backward()


def test_nothing_is_kept_without_gradients() -> None:
    states, weight, labels = problem()
    with torch.no_grad():
        values = token_logprobs(states, weight, labels, chunk_bytes=5 * ROW_BYTES)
    assert not values.requires_grad
    torch.testing.assert_close(values, plain(states, weight, labels).detach(), rtol=1e-5, atol=1e-4)


def test_memory_does_not_grow_with_the_logits() -> None:
    """Bytes that autograd keeps from the forward to the backward pass."""
    states, weight, labels = problem()
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        token_logprobs(states, weight, labels, chunk_bytes=5 * ROW_BYTES)
    assert max(kept) <= max(states.numel(), weight.numel()) * 4 < L * V * 4


@pytest.mark.slow
def test_two_ranks_that_share_the_vocabulary_agree_with_one() -> None:
    script = Path(__file__).with_name("shared_vocabulary.py")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal") == 8
