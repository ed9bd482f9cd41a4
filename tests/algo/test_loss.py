"""Token cross-entropy and the objectives of RL against their formulas, taken literally."""

import pytest
import torch

from k15.algo.loss import (
    Scored,
    advantages,
    best_shares,
    group_weights,
    objective,
    standardised_advantages,
    tau_log_partition,
    token_cross_entropy,
)

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


def test_standardised_advantages_are_those_of_each_group_and_0_where_it_is_uniform() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0, 4.0, 0.1, 0.1, 0.1], dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    got = standardised_advantages(rewards, group).tolist()
    assert got == pytest.approx([3**0.5, *[-(3**-0.5)] * 3, -1.0, 1.0, 0.0, 0.0, 0.0])


def test_best_responses_share_their_groups_weight_and_failures_have_none() -> None:
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.5, 1.5, 1.0, 0.0, 0.0, -1.0, 0.0], dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 3, 3])
    assert best_shares(rewards, group).tolist() == [2.0, 0.0, 2.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]


TAU, CLIP, KL = 0.1, 0.2, 0.3
REWARDS = ([1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.5])
LENGTHS = (6, 3, 5, 1, 4, 2, 6)


class Policies:
    """A policy θ with a gradient, an earlier one, and responses of unlike length to two problems."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shape, double = (7, 6, 5), {"generator": generator, "dtype": torch.float64}
        self.tokens = torch.randint(5, shape[:2], generator=generator)
        self.theta = torch.randn(shape[1:], **double).requires_grad_()
        self.before = self.theta.detach() + 0.3 * torch.randn(shape[1:], **double)

    def logprobs(self, weights: torch.Tensor) -> list[torch.Tensor]:
        """Of each response's tokens."""
        table = weights.log_softmax(-1).expand(7, -1, -1).gather(-1, self.tokens[..., None])[..., 0]
        return [row[:length] for row, length in zip(table, LENGTHS, strict=True)]

    def loss(self, name: str, **over: object) -> torch.Tensor:
        """The library's, of all tokens in an order of its own, in two parts."""
        settings = {"tau": TAU, "baseline": "mean", "clip_ratio": CLIP, "kl_weight": KL, **over}
        aim = objective(name, **settings)
        rewards = torch.tensor([r for group in REWARDS for r in group], dtype=torch.float64)
        group = torch.tensor([n for n, group in enumerate(REWARDS) for _ in group])
        new, old = self.logprobs(self.theta), self.logprobs(self.before)
        ratios = torch.stack([(a - b).sum().detach() for a, b in zip(new, old, strict=True)])
        row = torch.repeat_interleave(torch.arange(7), torch.tensor(LENGTHS))
        order = torch.randperm(len(row), generator=torch.Generator().manual_seed(1))
        parts = [
            Scored(
                torch.cat(new)[part],
                torch.cat(old)[part].detach(),
                row[part],
                ratios,
                torch.tensor(LENGTHS),
                aim.advantages(rewards, group),
                group_weights(group),
            )
            for part in order.split(10)
        ]
        return torch.stack([aim.loss(part) for part in parts]).sum()

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        """Of θ."""
        return torch.autograd.grad(loss, self.theta)[0]


@pytest.mark.parametrize("baseline", ["mean", "log_partition"])
def test_omd_has_the_gradient_of_the_surrogates_square(baseline: str) -> None:
    """eq. 3 = −∇L / 2τ with L = mean (r − b − τρ)², the square taken of the sequence's sum."""
    made, total = Policies(), torch.zeros((), dtype=torch.float64)
    pairs = iter(zip(made.logprobs(made.theta), made.logprobs(made.before), strict=True))
    for rewards in REWARDS:
        r = torch.tensor(rewards, dtype=torch.float64)
        b = r.mean() if baseline == "mean" else TAU * torch.log(torch.exp(r / TAU).mean())
        for reward in r:
            new, old = next(pairs)
            square = (reward - b - TAU * (new.sum() - old.sum().detach())) ** 2
            total = total + square / (2 * TAU) / (len(r) * len(REWARDS))
    got, expected = (made.gradient(loss) for loss in (made.loss("omd", baseline=baseline), total))
    assert torch.allclose(got, expected, atol=1e-12)
    assert float(got.norm()) > 0.01


def test_rest_is_the_mean_negative_log_likelihood_of_the_best() -> None:
    made = Policies()
    new = made.logprobs(made.theta)
    expected = -((new[0].sum() + new[3].sum()) / 2 + new[6].sum()) / 2
    got = made.loss("rest")
    assert float(got.detach()) == pytest.approx(float(expected.detach()))
    assert torch.allclose(made.gradient(got), made.gradient(expected), atol=1e-12)


def naive_grpo(made: Policies) -> tuple[torch.Tensor, int]:
    """DeepSeekMath's eq. 3 and 4 a token at a time; and how many tokens were clipped."""
    total, clipped = torch.zeros((), dtype=torch.float64), 0
    pairs = iter(zip(made.logprobs(made.theta), made.logprobs(made.before), strict=True))
    for rewards in REWARDS:
        mean = sum(rewards) / len(rewards)
        std = (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5
        for reward in rewards:
            advantage = (reward - mean) / std
            new, old = next(pairs)
            for now, then in zip(new, old.detach(), strict=True):
                ratio = torch.exp(now - then)
                bounded = torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
                gain = torch.min(ratio * advantage, bounded * advantage)
                clipped += bool((bounded * advantage).detach() < (ratio * advantage).detach())
                divergence = torch.exp(then - now) - (then - now) - 1
                total = total - (gain - KL * divergence) / len(new) / len(rewards) / len(REWARDS)
    return total, clipped


def test_grpo_is_deepseekmaths_objective_a_token_at_a_time() -> None:
    made = Policies()
    expected, clipped = naive_grpo(made)
    got = made.loss("grpo")
    assert 0 < clipped < sum(LENGTHS)
    assert float(got.detach()) == pytest.approx(float(expected.detach()))
    assert torch.allclose(made.gradient(got), made.gradient(expected), atol=1e-12)


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(ValueError, match="use one of omd, rest, grpo"):
        objective("ppo", tau=TAU, baseline="mean", clip_ratio=CLIP, kl_weight=KL)
