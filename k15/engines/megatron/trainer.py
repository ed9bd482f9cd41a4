"""The trainer: Megatron's model and optimizer behind ports.Trainer."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from torch import Tensor

from k15.algo.loss import surrogate_loss, token_cross_entropy
from k15.algo.packing import microbatches
from k15.engines.megatron import model, optimizer, parallel
from k15.engines.megatron.batch import Packed, pack
from k15.engines.megatron.policy import Iteration, PolicyRows, Surrogate, flatten
from k15.recipes.rl import PolicyUpdate
from k15.recipes.supervised import Optimizer
from k15.records import Group, TensorSpec, UpdateStats
from k15.records import Sequence as Row

Loss = Callable[[Packed, Tensor], Tensor]  # a packed batch, its labels' log-probs -> its part of the loss


class MegatronTrainer:
    """One policy with its optimizer: fp32 on CPU, bf16 with fp32 master weights on CUDA.

    Under torchrun each process is a data-parallel rank: all are called with the same arguments, each trains
    on its share of the microbatches, and all end with the same weights.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        threads: int,
        max_tokens_per_microbatch: int,
        rope_base: float | None = None,
        max_positions: int | None = None,
        seed: int = 0,
    ) -> None:
        torch.set_num_threads(threads)
        parallel.start(seed)
        self._cuda = torch.cuda.is_available()
        self._max_tokens = max_tokens_per_microbatch
        self._model = model.load(model_dir, rope_base=rope_base, max_positions=max_positions)
        self._wrapped = _wrap(self._model, cuda=self._cuda)
        self._optimizer = optimizer.build(self._wrapped, cuda=self._cuda)

    @property
    def num_parameters(self) -> int:
        """Weights of the model, a tied one counted once."""
        return sum(parameter.numel() for parameter in self._model.module.parameters())

    @property
    def max_positions(self) -> int:
        """The longest row the model's config.json allows."""
        return self._model.arch.max_positions

    def reset_optimizer(self, values: Optimizer) -> None:
        """Forget all optimizer state and use `values` from now on (the rate comes with each step)."""
        adam = optimizer.Adam(
            values.adam_beta1,
            values.adam_beta2,
            values.adam_epsilon,
            values.clip_gradient_norm,
            values.weight_decay,
        )
        optimizer.reset(self._optimizer, adam)

    def supervised_step(self, batch: Sequence[Row], *, lr: float) -> dict[str, float]:
        """One update by the mean cross-entropy per loss token of `batch`.

        Returns loss, gradient_norm and num_tokens. FloatingPointError where loss or gradient is not finite.
        """
        num_loss_tokens = sum(sum(row.in_loss) for row in batch)
        if num_loss_tokens == 0:
            raise ValueError(f"a batch of {len(batch)} rows has no token in the loss")

        def loss(packed: Packed, logprobs_T: Tensor) -> Tensor:
            return token_cross_entropy(logprobs_T, packed.in_loss_T, num_loss_tokens)

        packs = self._pack(batch, range(len(batch)), self._max_tokens)
        value, norm = self._step(packs, loss, lr)
        return {"loss": value, "gradient_norm": norm, "num_tokens": float(_num_tokens(batch))}

    def policy_update(
        self,
        groups: Sequence[Group],
        *,
        settings: PolicyUpdate,
        lr: float,
        surrogate: Surrogate = surrogate_loss,
    ) -> UpdateStats:
        """One iteration of METHOD.md §1: optimizer reset, π_i = the weights now, then the updates.

        `lr` is this iteration's rate (settings.lr after any warm-up over iterations). There are inner_steps ×
        minibatches updates, none where there is nothing to learn from. FloatingPointError where the loss or
        its gradient is not finite.
        """
        started = time.perf_counter()
        self._reset_for(settings)
        batch = flatten(
            groups,
            tau=settings.tau,
            baseline=settings.baseline,
            num_minibatches=settings.minibatches,
            drop_uniform=settings.drop_uniform_groups,
        )
        iteration = Iteration(batch, surrogate, settings.tau, self._device)
        losses, norms = self._inner_steps(batch, iteration, settings, lr)
        mean, largest = iteration.mismatch()
        updates = len(losses)
        tokens = sum(_num_tokens([batch.rows[row] for row in part]) for part in batch.minibatches)
        return UpdateStats(
            num_updates=updates,
            loss=sum(losses) / max(1, updates),
            gradient_norm=sum(norms) / max(1, updates),
            num_tokens=tokens * settings.inner_steps,
            mismatch_mean=mean,
            mismatch_max=largest,
            seconds=time.perf_counter() - started,
            extra={"num_groups_kept": float(batch.num_groups_kept), "log_ratio": iteration.mean_log_ratio()},
        )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(HF name, tensor) in layout order, without a tied output layer. Read before the next update."""
        return self._model.tensors()

    def layout(self) -> list[TensorSpec]:
        """Where each of `tensors` lies when they are written one after another."""
        specs, offset = [], 0
        for name, tensor in self.tensors():
            dtype = str(tensor.dtype).removeprefix("torch.")
            specs.append(TensorSpec(name, dtype, tuple(tensor.shape), offset))
            offset += tensor.numel() * tensor.element_size()
        return specs

    def save(self, directory: Path) -> None:
        """Write an HF directory: config, sharded safetensors, and the tokenizer it was loaded with."""
        self._model.save(directory)

    @torch.no_grad()
    def logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """For each row the log-probs of its loss tokens."""
        out: list[list[float]] = [[] for _ in rows]
        for packed in self._pack(rows, range(len(rows)), self._max_tokens, share=False):
            values_T = model.logprobs(self._wrapped, packed)
            for place, index in enumerate(packed.indices):
                out[index] = values_T[(packed.row_T == place) & packed.in_loss_T].tolist()
        return out

    @property
    def _device(self) -> torch.device:
        return torch.device("cuda" if self._cuda else "cpu")

    def _reset_for(self, settings: PolicyUpdate) -> None:
        adam = optimizer.Adam(
            settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon, settings.clip_gradient_norm
        )
        optimizer.reset(self._optimizer, adam)

    def _inner_steps(
        self, batch: PolicyRows, iteration: Iteration, settings: PolicyUpdate, lr: float
    ) -> tuple[list[float], list[float]]:
        """Loss and gradient norm of every update. A lone minibatch's first forward pass is its reference."""
        limit = settings.max_tokens_per_microbatch
        parts = [self._pack(batch.rows, part, limit) for part in batch.minibatches]
        single = len(parts) == 1
        if not single:
            self._observe(parts, iteration)
        losses: list[float] = []
        norms: list[float] = []
        for inner in range(settings.inner_steps):
            for packs in parts:
                scale = 1.0 if losses else settings.first_step_scale
                loss = iteration.first_loss if single and inner == 0 else iteration.loss
                value, norm = self._step(packs, loss, lr * scale)
                losses.append(value)
                norms.append(norm)
        return losses, norms

    @torch.no_grad()
    def _observe(self, parts: list[list[Packed]], iteration: Iteration) -> None:
        for packed in (packed for packs in parts for packed in packs):
            iteration.observe(packed, model.logprobs(self._wrapped, packed))

    def _pack(
        self, rows: Sequence[Row], indices: Sequence[int], max_tokens: int, *, share: bool = True
    ) -> list[Packed]:
        """The rows at `indices` in microbatches; with `share` only this rank's."""
        longest = max((len(rows[index].token_ids) for index in indices), default=0)
        if longest > self.max_positions:
            raise ValueError(f"a row has {longest} tokens; the model allows {self.max_positions}")
        batches = microbatches([len(rows[index].token_ids) - 1 for index in indices], max_tokens)
        if share:
            batches = batches[parallel.data_rank() :: parallel.data_size()]
        return [pack(rows, [indices[place] for place in places], cuda=self._cuda) for places in batches]

    def _step(self, packs: Sequence[Packed], loss: Loss, lr: float) -> tuple[float, float]:
        """One update by the sum of `loss` over microbatches: (objective, gradient norm before clipping)."""
        self._wrapped.zero_grad_buffer()
        self._optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for packed in packs:
            part = loss(packed, model.logprobs(self._wrapped, packed))
            total += part.detach()
            # Data parallelism averages gradients; the parts are to add up.
            (part * parallel.data_size()).backward()
        self._wrapped.finish_grad_sync()
        value = float(parallel.sum_over_data(total))
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value}; lower the learning rate or look at the batch")
        norm = optimizer.step(self._optimizer, lr)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm} at loss {value}; the weights are spoilt")
        return value, norm


def _wrap(loaded: model.Model, *, cuda: bool) -> DistributedDataParallel:
    config = loaded.module.config
    module = loaded.module
    if cuda:
        from megatron.core.transformer.module import Float16Module

        module = Float16Module(config, module)
    buckets = DistributedDataParallelConfig(
        use_distributed_optimizer=False, overlap_grad_reduce=False, grad_reduce_in_fp32=True
    )
    return DistributedDataParallel(config, buckets, module)


def _num_tokens(rows: Sequence[Row]) -> int:
    """Tokens a forward pass reads: a row's last is only predicted."""
    return sum(len(row.token_ids) - 1 for row in rows)
