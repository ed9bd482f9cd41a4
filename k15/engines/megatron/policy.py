"""One iteration of eq. 3 over packed rows: advantages, references, and what is measured on the way.

Suffixes: T tokens of a batch, N rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from k15.algo.loss import advantages, group_weights
from k15.engines.megatron import parallel
from k15.engines.megatron.batch import Packed
from k15.records import Group
from k15.records import Sequence as Row

Surrogate = Callable[..., Tensor]  # k15.algo.loss.surrogate_loss


@dataclass(frozen=True, slots=True)
class PolicyRows:
    """The sequences of all groups, flat, with what their coefficients are made of."""

    rows: tuple[Row, ...]
    sampler_logprobs: tuple[tuple[float, ...], ...]  # of each row's loss tokens; empty where none were sent
    advantages_N: Tensor
    weights_N: Tensor  # a row's share of the mean over groups
    minibatches: tuple[tuple[int, ...], ...]  # rows of each update of a pass
    num_groups_kept: int


def flatten(
    groups: Sequence[Group], *, tau: float, baseline: str, num_minibatches: int, drop_uniform: bool
) -> PolicyRows:
    """Rows of `groups`, whose groups are dealt to the minibatches in turn.

    Dropped groups still count in the mean, so the first update's gradient does not depend on `drop_uniform`.
    ValueError names a group whose parts differ in number.
    """
    for group in groups:
        _check(group)
    numbers = [number for number, group in enumerate(groups) for _ in group.sequences]
    group_N = torch.tensor(numbers)
    rewards_N = torch.tensor([reward for group in groups for reward in group.rewards], dtype=torch.float64)
    kept = [n for n, group in enumerate(groups) if not (drop_uniform and len(set(group.rewards)) == 1)]
    count = min(num_minibatches, len(kept))
    dealt = [set(kept[part::count]) for part in range(count)]
    return PolicyRows(
        rows=tuple(row for group in groups for row in group.sequences),
        sampler_logprobs=tuple(
            group.logprobs[j] if group.logprobs else ()
            for group in groups
            for j in range(len(group.sequences))
        ),
        advantages_N=advantages(rewards_N, group_N, tau=tau, baseline=baseline),
        weights_N=group_weights(group_N) * max(1, count),
        minibatches=tuple(tuple(row for row, n in enumerate(numbers) if n in part) for part in dealt),
        num_groups_kept=len(kept),
    )


class Iteration:
    """The reference π_i of every row, taken in its first forward pass, and the loss held against it."""

    def __init__(self, batch: PolicyRows, surrogate: Surrogate, tau: float, device: torch.device) -> None:
        self._batch, self._surrogate, self._tau = batch, surrogate, tau
        self._advantages_N = batch.advantages_N.to(device)
        self._weights_N = batch.weights_N.to(device)
        self._reference_N = torch.full_like(self._advantages_N, torch.nan)
        self._ratios_N = torch.zeros_like(self._advantages_N)
        self._differences: list[Tensor] = []

    @torch.no_grad()
    def observe(self, packed: Packed, logprobs_T: Tensor) -> None:
        """Take the rows' references, and compare the tokens this policy sampled; before any update only."""
        self._reference_N[list(packed.indices)] = _whole_sums(packed, logprobs_T)
        sampled = [self._batch.sampler_logprobs[index] for index in packed.indices]
        if any(sampled):
            mine = logprobs_T[packed.in_loss_T]
            theirs = packed.of_loss_tokens(sampled).to(mine.dtype)
            self._differences.append((mine - theirs)[theirs.isfinite()].abs())

    def loss(self, packed: Packed, logprobs_T: Tensor) -> Tensor:
        """This rank's part of the surrogate of the rows in `packed`, against their references."""
        rows = list(packed.indices)
        sums_N = _whole_sums(packed, logprobs_T)
        self._ratios_N[rows] = sums_N.detach() - self._reference_N[rows]
        whole = self._surrogate(
            sums_N, self._reference_N[rows], self._advantages_N[rows], self._weights_N[rows], tau=self._tau
        )
        # Ranks that share rows all have the whole value and their own tokens' gradient: values add up too.
        return whole - whole.detach() * (1 - 1 / parallel.context_size())

    def first_loss(self, packed: Packed, logprobs_T: Tensor) -> Tensor:
        """`observe` and `loss` of the same forward pass."""
        self.observe(packed, logprobs_T)
        return self.loss(packed, logprobs_T)

    def mismatch(self) -> tuple[float, float]:
        """Mean and largest |log p_trainer − log p_sampler| over the tokens compared; 0 where none were."""
        values = torch.cat(self._differences) if self._differences else self._advantages_N.new_zeros(0)
        totals = torch.tensor([float(values.sum()), float(len(values))], dtype=torch.float64)
        largest = torch.tensor(float(values.max()) if len(values) else 0.0)
        device = self._advantages_N.device
        summed = parallel.sum_over_data(totals.to(device), context=True)
        total, count = parallel.from_last_stage(summed).tolist()
        largest = parallel.max_over_data(largest.to(device), context=True)
        return total / max(1.0, count), float(parallel.from_last_stage(largest))

    def mean_log_ratio(self) -> float:
        """Mean |ρ| of the rows kept, as their last update saw it."""
        rows = [row for part in self._batch.minibatches for row in part]
        total = parallel.sum_over_data(self._ratios_N[rows].abs().sum())
        return float(parallel.from_last_stage(total)) / max(1, len(rows))


def _whole_sums(packed: Packed, logprobs_T: Tensor) -> Tensor:
    """Each row's sum over its loss tokens on all ranks: eq. 3 squares the sum of all of them. Shape N."""
    return parallel.sum_over_context(packed.row_sums(logprobs_T))


def _check(group: Group) -> None:
    k = len(group.sequences)
    if k == 0 or len(group.rewards) != k or len(group.logprobs) not in (0, k):
        raise ValueError(
            f"group {group.prompt_id}: {k} sequences, {len(group.rewards)} rewards, "
            f"{len(group.logprobs)} log-prob rows; each sequence needs one reward, and all or none log-probs"
        )
    for number, (row, values) in enumerate(zip(group.sequences, group.logprobs, strict=False)):
        if len(values) != sum(row.in_loss):
            raise ValueError(
                f"group {group.prompt_id}: sequence {number} has {sum(row.in_loss)} loss tokens "
                f"and {len(values)} log-probs"
            )
