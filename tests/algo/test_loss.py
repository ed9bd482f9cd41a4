"""Token cross-entropy and the policy surrogate against METHOD.md's formulas, taken literally."""

import pytest
import torch

from k15.algo.loss import advantages, group_weights, surrogate_loss, tau_log_partition, token_cross_entropy

TAUS = (0.01, 0.1, 1.0, 10.0, 100.0)
HALF = ([1.0, 0.0, 0.0, 1.0], (0.993069, 0.930690, 0.620115, 0.512495, 0.501250))
EIGHTH = ([1.0] + [0.0] * 7, (0.979206, 0.792088, 0.194567, 0.130607, 0.125548))


@pytest.mark.parametrize(("rewards", "expected"), [HALF, EIGHTH])
def test_tau_log_partition_has_the_papers_limits(rewards: list[float], expected: tuple[float, ...]) -> None:
    values = [float(tau_log_partition(torch.tensor(rewards, dtype=torch.float64), tau)) for tau in TAUS]
    assert values == pytest.approx(expected, abs=1e-6)


def test_tau_log_partition_does_not_overflow() -> None:
    assert float(tau_log_partition(torch.tensor([1000.0, 0.0]), 1e-3)) == pytest.approx(1000.0)


def test_advantages_are_taken_within_each_group() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.3, 0.3, 0.3], dtype=torch.float64)
    group = torch.tensor([7, 7, 7, 7, 2, 2, 2])
    mean = advantages(rewards, group, tau=0.1, baseline="mean")
    assert mean.tolist() == [0.5, -0.5, -0.5, 0.5, 0.0, 0.0, 0.0]
    partition = advantages(rewards, group, tau=0.1, baseline="log_partition")
    assert partition.tolist() == pytest.approx([0.06931, -0.93069, -0.93069, 0.06931, 0, 0, 0], abs=1e-5)


def test_unknown_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="use one of log_partition, mean"):
        advantages(torch.ones(2), torch.zeros(2), tau=0.1, baseline="leave_one_out")


def test_every_group_weighs_the_same_whatever_its_size() -> None:
    weights = group_weights(torch.tensor([0, 0, 0, 0, 1, 1]))
    assert weights.tolist() == [0.125] * 4 + [0.25] * 2


def test_parts_of_a_batch_add_up_to_its_mean_cross_entropy() -> None:
    logprobs = torch.randn(10)
    mask = torch.tensor([True, False] * 5)
    whole = token_cross_entropy(logprobs, mask, 5)
    parts = token_cross_entropy(logprobs[:4], mask[:4], 5) + token_cross_entropy(logprobs[4:], mask[4:], 5)
    assert float(whole) == pytest.approx(-float(logprobs[mask].mean()))
    assert float(parts) == pytest.approx(float(whole))


@pytest.mark.parametrize("baseline", ["mean", "log_partition"])
def test_gradient_is_that_of_the_surrogates_square(baseline: str) -> None:
    """eq. 3 = −∇L / 2τ with L = mean (r − b − τρ)², the square taken of the sequence's sum."""
    tau, k, length, vocabulary = 0.1, 4, 6, 5
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (k, length), generator=generator)
    theta = torch.randn(length, vocabulary, generator=generator, dtype=torch.float64, requires_grad=True)
    before = theta.detach() + 0.3 * torch.randn(length, vocabulary, generator=generator, dtype=torch.float64)
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)

    def sums(weights: torch.Tensor) -> torch.Tensor:
        logprobs = weights.log_softmax(-1).expand(k, -1, -1)
        return logprobs.gather(-1, tokens[..., None])[..., 0].sum(-1)

    reference = sums(before)
    b = rewards.mean() if baseline == "mean" else tau * torch.log(torch.exp(rewards / tau).mean())
    square = ((rewards - b - tau * (sums(theta) - reference)) ** 2).mean()
    (expected,) = torch.autograd.grad(square / (2 * tau), theta)

    group = torch.zeros(k, dtype=torch.long)
    loss = surrogate_loss(
        sums(theta),
        reference,
        advantages(rewards, group, tau=tau, baseline=baseline),
        group_weights(group),
        tau=tau,
    )
    (got,) = torch.autograd.grad(loss, theta)
    assert torch.allclose(got, expected, atol=1e-12)
    assert float(got.norm()) > 0.01
