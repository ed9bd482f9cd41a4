"""Token cross-entropy and the objectives of RL: eq. 3 (METHOD.md §1), and two to compare it with.

Suffixes: T tokens, L loss tokens of some responses, N responses. Log-probs only, never logits.
A loss of RL is a scalar whose parts add up: over responses, and over parts of a response's tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor


def token_cross_entropy(logprobs_T: Tensor, mask_T: Tensor, num_loss_tokens: int) -> Tensor:
    """−Σ log p over the masked tokens / `num_loss_tokens`: parts of a batch add up to its mean. Scalar."""
    return -(logprobs_T * mask_T).sum() / num_loss_tokens


def tau_log_partition(rewards: Tensor, tau: float) -> Tensor:
    """τ log Z ≈ τ log (1/k) Σ_j exp(r_j/τ), by a max-shifted logsumexp over the last dimension."""
    return tau * (torch.logsumexp(rewards / tau, -1) - torch.log(torch.tensor(float(rewards.shape[-1]))))


def _mean(rewards: Tensor, tau: float) -> Tensor:  # noqa: ARG001 (the signature of a baseline)
    return rewards.mean()


BASELINES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mean": _mean,
    "log_partition": tau_log_partition,
}


def advantages(rewards_N: Tensor, group_N: Tensor, *, tau: float, baseline: str) -> Tensor:
    """r_j − b with b of the response's own group: the mean reward, or τ log Z. Shape N.

    Groups are numbered; one of equal rewards gives exactly 0. ValueError for a baseline none of BASELINES.
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline {baseline!r}: use one of {', '.join(sorted(BASELINES))}")

    return _of_mixed_groups(rewards_N, group_N, lambda rewards: rewards - BASELINES[baseline](rewards, tau))


def standardised_advantages(rewards_N: Tensor, group_N: Tensor) -> Tensor:
    """(r_j − mean) / std of the response's own group (DeepSeekMath, arXiv 2402.03300, §4.1.2). Shape N.

    std is that of the k rewards themselves (divided by k, not k − 1). Equal rewards give exactly 0.
    """

    return _of_mixed_groups(
        rewards_N, group_N, lambda rewards: (rewards - rewards.mean()) / rewards.std(correction=0)
    )


def best_shares(rewards_N: Tensor, group_N: Tensor) -> Tensor:
    """k / m for each of a group's m best responses, where they are rewarded above 0, else 0. Shape N.

    So a group's k responses share weight k, as its best ones; one without a success has nothing to fit.
    """

    def share(rewards: Tensor) -> Tensor:
        best = (rewards == rewards.max()) & (rewards > 0)
        return best * rewards.new_tensor(len(rewards) / max(1, int(best.sum())))

    return _of_groups(rewards_N, group_N, share)


def _of_groups(rewards_N: Tensor, group_N: Tensor, of_group: Callable[[Tensor], Tensor]) -> Tensor:
    """`of_group` of each group's rewards, at their places."""
    out_N = torch.zeros_like(rewards_N)
    for number in group_N.unique().tolist():
        member_N = group_N == number
        out_N[member_N] = of_group(rewards_N[member_N])
    return out_N


def _of_mixed_groups(rewards_N: Tensor, group_N: Tensor, of_group: Callable[[Tensor], Tensor]) -> Tensor:
    """The same, and exactly 0 where a group's rewards are all equal."""

    def of_any(rewards: Tensor) -> Tensor:
        return torch.zeros_like(rewards) if bool((rewards == rewards[0]).all()) else of_group(rewards)

    return _of_groups(rewards_N, group_N, of_any)


def group_weights(group_N: Tensor) -> Tensor:
    """1 / (k · number of groups): the mean over a group's k responses, then over groups. Shape N."""
    _, place_N, counts = group_N.unique(return_inverse=True, return_counts=True)
    return 1.0 / (counts[place_N].double() * len(counts))


@dataclass(frozen=True, slots=True)
class Scored:
    """Loss tokens of N responses, or part of them, as the policy and the reference π_i score them."""

    logprobs_L: Tensor  # log πθ, with its gradient
    reference_L: Tensor  # log π_i
    row_L: Tensor  # which of the N responses the token is of
    log_ratios_N: Tensor  # ρ = log πθ − log π_i of the *whole* response, without gradient
    lengths_N: Tensor  # loss tokens of the whole response
    advantages_N: Tensor
    weights_N: Tensor  # as group_weights


def omd_loss(scored: Scored, *, tau: float) -> Tensor:
    """Eq. 3, negated, as gradient: −Σ_j w_j · c_j · Σ_t log πθ(t), with c_j = (r_j − b) − τ ρ_j detached.

    This is gradient-exact: ∇ (τ/2) ρ² = τ ρ ∇ log πθ, with ρ and the square those of the whole sequence.
    """
    coefficients_N = scored.advantages_N - tau * scored.log_ratios_N
    return -((scored.weights_N * coefficients_N)[scored.row_L] * scored.logprobs_L).sum()


def rest_loss(scored: Scored) -> Tensor:
    """Fit the best, no negative gradient: −Σ_j w_j · a_j · Σ_t log πθ(t), with a_j of best_shares.

    The mean over groups of the best responses' negative log-likelihood (ReST, arXiv 2308.08998, with the
    group's best as its filter), a response's tokens summed. There is no reference in it.
    """
    return -((scored.weights_N * scored.advantages_N)[scored.row_L] * scored.logprobs_L).sum()


def grpo_loss(scored: Scored, *, clip_ratio: float, kl_weight: float) -> Tensor:
    """DeepSeekMath's eq. 3, negated: −Σ_j w_j / |y_j| · Σ_t (min(s_t A_j, clip(s_t) A_j) − β KL_t).

    s_t = πθ(t)/π_i(t) a token, clipped to 1 ± `clip_ratio`; A_j as standardised_advantages; β = `kl_weight`;
    KL_t = π_i/πθ − log(π_i/πθ) − 1, the unbiased estimate of KL(πθ ‖ π_i) (their eq. 4). π_i, which sampled,
    is the old policy and the reference in one, as after their algorithm 1 sets π_ref ← πθ.
    """
    log_ratio_L = scored.logprobs_L.double() - scored.reference_L
    ratio_L = log_ratio_L.exp()
    advantage_L = scored.advantages_N[scored.row_L]
    clipped_L = ratio_L.clamp(1 - clip_ratio, 1 + clip_ratio)
    gain_L = torch.minimum(ratio_L * advantage_L, clipped_L * advantage_L)
    divergence_L = (-log_ratio_L).exp() + log_ratio_L - 1
    return -((scored.weights_N / scored.lengths_N)[scored.row_L] * (gain_L - kl_weight * divergence_L)).sum()


@dataclass(frozen=True, slots=True)
class Objective:
    """What a round trains on: each response's advantage, from the rewards of all groups, and the loss."""

    advantages: Callable[[Tensor, Tensor], Tensor]  # (rewards_N, group_N) -> N
    loss: Callable[[Scored], Tensor]


def objective(name: str, *, tau: float, baseline: str, clip_ratio: float, kl_weight: float) -> Objective:
    """ "omd" takes tau and baseline, "grpo" clip_ratio and kl_weight, "rest" none. ValueError for others."""
    objectives = {
        "omd": Objective(partial(advantages, tau=tau, baseline=baseline), partial(omd_loss, tau=tau)),
        "rest": Objective(best_shares, rest_loss),
        "grpo": Objective(
            standardised_advantages, partial(grpo_loss, clip_ratio=clip_ratio, kl_weight=kl_weight)
        ),
    }
    if name not in objectives:
        raise ValueError(f"objective {name!r}: use one of {', '.join(objectives)}")
    return objectives[name]
