"""Token cross-entropy and the policy surrogate (METHOD.md §1).

Suffixes: T tokens, N sequences. Log-probs only, never logits.
"""

from collections.abc import Callable

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
    """r_j − b with b of the sequence's own group: the mean reward, or τ log Z. Shape N.

    Groups are numbered; one of equal rewards gives exactly 0. ValueError for a baseline none of BASELINES.
    """
    if baseline not in BASELINES:
        raise ValueError(f"baseline {baseline!r}: use one of {', '.join(sorted(BASELINES))}")
    out_N = torch.zeros_like(rewards_N)
    for number in group_N.unique().tolist():
        member_N = group_N == number
        rewards = rewards_N[member_N]
        if not bool((rewards == rewards[0]).all()):
            out_N[member_N] = rewards - BASELINES[baseline](rewards, tau)
    return out_N


def group_weights(group_N: Tensor) -> Tensor:
    """1 / (k · number of groups): the mean over a group's k sequences, then over groups. Shape N."""
    _, place_N, counts = group_N.unique(return_inverse=True, return_counts=True)
    return 1.0 / (counts[place_N].double() * len(counts))


def surrogate_loss(
    logprob_sums_N: Tensor, reference_sums_N: Tensor, advantages_N: Tensor, weights_N: Tensor, *, tau: float
) -> Tensor:
    """A scalar whose gradient is that of eq. 3, negated: −Σ_j w_j · c_j · log πθ(y_j, z_j | x).

    c_j = (r_j − b) − τ ρ_j is detached, with ρ_j = log πθ − log π_i of the whole sequence. This is
    gradient-exact: ∇ (τ/2) ρ² = τ ρ ∇ log πθ. Parts of a batch add up, as long as a sequence stays whole.
    """
    ratios_N = logprob_sums_N.detach() - reference_sums_N
    coefficients_N = advantages_N - tau * ratios_N
    return -(weights_N * coefficients_N * logprob_sums_N).sum()
