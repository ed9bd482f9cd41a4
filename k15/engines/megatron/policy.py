"""One iteration over packed rows: advantages, references, loss, and what is measured on the way.

Suffixes: T tokens of a batch, L those of them in the loss, N rows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from k15.algo.loss import Objective, Scored, group_weights
from k15.engines.megatron import parallel
from k15.engines.megatron.batch import Packed, num_tokens
from k15.records import Group, UpdateStats
from k15.records import Sequence as Row


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Differences of the same tokens' log-probs, over how many, and the share of them outside the band."""

    mean: float
    largest: float
    outside: float
    tokens: int


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
    groups: Sequence[Group], *, objective: Objective, num_minibatches: int, drop_uniform: bool
) -> PolicyRows:
    """Rows of `groups`, whose groups are dealt to the minibatches in turn.

    `drop_uniform` leaves groups out whose advantages are all 0. They still count in the mean, so the first
    update's gradient does not depend on it. So do rows without loss tokens, which no pass reads.
    ValueError names a group whose parts differ in number.
    """
    for group in groups:
        _check(group)
    numbers = [number for number, group in enumerate(groups) for _ in group.sequences]
    group_rows = tuple(row for group in groups for row in group.sequences)
    group_N = torch.tensor(numbers)
    rewards_N = torch.tensor([reward for group in groups for reward in group.rewards], dtype=torch.float64)
    advantages_N = objective.advantages(rewards_N, group_N)
    teaching = set(group_N[advantages_N != 0].tolist())
    with_loss = [place for place, row in enumerate(group_rows) if any(row.in_loss)]
    some = {numbers[place] for place in with_loss}
    kept = [n for n in range(len(groups)) if n in some and (n in teaching or not drop_uniform)]
    count = min(num_minibatches, len(kept))
    dealt = [set(kept[part::count]) for part in range(count)]
    return PolicyRows(
        rows=group_rows,
        sampler_logprobs=tuple(
            group.logprobs[j] if group.logprobs else ()
            for group in groups
            for j in range(len(group.sequences))
        ),
        advantages_N=advantages_N,
        weights_N=group_weights(group_N) * max(1, count),
        minibatches=tuple(tuple(place for place in with_loss if numbers[place] in part) for part in dealt),
        num_groups_kept=len(kept),
    )


class Iteration:
    """The reference π_i of every row, taken in its first forward pass, and the loss held against it."""

    def __init__(
        self, batch: PolicyRows, loss: Callable[[Scored], Tensor], band: float, device: torch.device
    ) -> None:
        self._batch, self._loss, self._band = batch, loss, band
        self._advantages_N = batch.advantages_N.to(device)
        self._weights_N = batch.weights_N.to(device)
        self._lengths_N = torch.tensor([sum(row.in_loss) for row in batch.rows], device=device)
        self._log_ratios_N = torch.zeros_like(self._advantages_N)
        self._references: dict[tuple[int, ...], Tensor] = {}  # by a microbatch's rows
        self._differences: list[Tensor] = []

    @torch.no_grad()
    def observe(self, packed: Packed, logprobs_T: Tensor) -> None:
        """Take the rows' references, and compare the tokens this policy sampled; before any update only."""
        reference_L = logprobs_T[packed.in_loss_T]
        self._references[packed.indices] = reference_L
        sampled = [self._batch.sampler_logprobs[index] for index in packed.indices]
        if any(sampled):
            theirs_L = packed.of_loss_tokens(sampled).to(reference_L.dtype)
            self._differences.append((reference_L - theirs_L)[theirs_L.isfinite()].abs())

    def loss(self, packed: Packed, logprobs_T: Tensor) -> Tensor:
        """The part of the loss of this rank's tokens of the rows in `packed`, against their references."""
        rows = list(packed.indices)
        logprobs_L, reference_L = logprobs_T[packed.in_loss_T], self._references[packed.indices]
        # Over all ranks that share the rows: eq. 3 squares the sum of all of a row's tokens.
        log_ratios_N = parallel.sum_over_context(packed.row_sums(logprobs_L.detach() - reference_L))
        self._log_ratios_N[rows] = log_ratios_N
        return self._loss(
            Scored(
                logprobs_L,
                reference_L,
                packed.row_L,
                log_ratios_N,
                self._lengths_N[rows],
                self._advantages_N[rows],
                self._weights_N[rows],
            )
        )

    def first_loss(self, packed: Packed, logprobs_T: Tensor) -> Tensor:
        """`observe` and `loss` of the same forward pass."""
        self.observe(packed, logprobs_T)
        return self.loss(packed, logprobs_T)

    def mismatch(self) -> Mismatch:
        """|log p_trainer − log p_sampler| over the tokens compared; all 0 where none were."""
        values = torch.cat(self._differences) if self._differences else self._advantages_N.new_zeros(0)
        parts = [float(values.sum()), float(len(values)), float((values > self._band).sum())]
        summed = parallel.sum_over_data(self._row(parts), context=True)
        total, count, outside = parallel.from_last_stage(summed).tolist()
        largest = self._row([float(values.max()) if len(values) else 0.0])
        largest = parallel.from_last_stage(parallel.max_over_data(largest, context=True))
        num = max(1.0, count)
        return Mismatch(total / num, float(largest), outside / num, int(count))

    def log_ratio(self) -> tuple[float, float]:
        """Mean and largest |ρ| of the rows kept, as their last update saw it."""
        rows = [row for part in self._batch.minibatches for row in part]
        sizes_N = self._log_ratios_N[rows].abs()
        total = parallel.from_last_stage(parallel.sum_over_data(sizes_N.sum()))
        largest = self._row([float(sizes_N.max()) if rows else 0.0])
        largest = parallel.from_last_stage(parallel.max_over_data(largest))
        return float(total) / max(1, len(rows)), float(largest)

    def stats(
        self, losses: Sequence[float], norms: Sequence[float], *, inner_steps: int, started: float
    ) -> UpdateStats:
        """What the updates did; `started` is time.perf_counter's. Every rank is to call it."""
        mismatch = self.mismatch()
        rho_mean, rho_max = self.log_ratio()
        updates = len(losses)
        tokens = sum(num_tokens([self._batch.rows[row] for row in part]) for part in self._batch.minibatches)
        return UpdateStats(
            num_updates=updates,
            loss=sum(losses) / max(1, updates),
            gradient_norm=sum(norms) / max(1, updates),
            num_tokens=tokens * inner_steps,
            mismatch_mean=mismatch.mean,
            mismatch_max=mismatch.largest,
            seconds=time.perf_counter() - started,
            extra={
                "num_groups_kept": float(self._batch.num_groups_kept),
                "rho_mean": rho_mean,
                "rho_max": rho_max,
                "mismatch_outside": mismatch.outside,
                "mismatch_tokens": float(mismatch.tokens),
            },
        )

    def _row(self, values: list[float]) -> Tensor:
        return self._advantages_N.new_tensor(values)


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
