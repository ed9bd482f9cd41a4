"""The trainer: Megatron's model and optimizer behind ports.Trainer."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from megatron.core.distributed import finalize_model_grads
from torch import Tensor

from k15.algo.flops import training_flops
from k15.algo.loss import objective, token_cross_entropy
from k15.algo.packing import microbatches
from k15.engines.megatron import architecture, cpu, model, optimizer, parallel, schedule, state
from k15.engines.megatron.architecture import Precision
from k15.engines.megatron.batch import Packed, Share, num_tokens, pack
from k15.engines.megatron.offload import HostCopy
from k15.engines.megatron.policy import Iteration, PolicyRows, flatten
from k15.engines.megatron.schedule import Loss
from k15.recipes.pipeline import Layout
from k15.recipes.rl import PolicyUpdate
from k15.recipes.supervised import Optimizer
from k15.records import Group, TensorSpec, UpdateStats
from k15.records import Sequence as Row


class MegatronTrainer:
    """One policy with its optimizer, in fp32, or in bf16 with fp32 master weights; CUDA asks for bf16.

    `recompute` keeps a layer's input alone for the backward pass, and works the rest out again in it.
    With a layout of several processes each makes its own trainer, and every method is to be called in all of
    them with the same arguments: each does its share, and all return the same figures.
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
        precision: Precision = "float32",
        recompute: bool = False,
        layout: Layout | None = None,
    ) -> None:
        layout = layout or Layout()
        torch.set_num_threads(threads)
        parallel.start(seed, layout)
        self._cuda = torch.cuda.is_available()
        dtype = architecture.dtype(precision, cuda=self._cuda)
        self._max_tokens = max_tokens_per_microbatch
        self._model = model.load(
            model_dir,
            rope_base=rope_base,
            max_positions=max_positions,
            precision=dtype,
            recompute=recompute,
            layout=layout,
        )
        self._share = Share(parallel.context_rank(), layout.context, layout.tensor if layout.sequence else 1)
        self._wrapped = optimizer.wrap(self._model.module)
        self._optimizer = optimizer.build(self._wrapped, precision=dtype)
        self._host = HostCopy()
        cpu.keep_freed_memory()

    @property
    def num_parameters(self) -> int:
        """Weights of the model, a tied one counted once."""
        return self._model.num_parameters

    @property
    def max_positions(self) -> int:
        """The longest row the model's config.json allows."""
        return self._model.arch.max_positions

    def flops(self, rows: Sequence[Row]) -> int:
        """Operations of a supervised step on `rows`, by k15.algo.flops."""
        num_loss_tokens = sum(sum(row.in_loss[1:]) for row in rows)
        return training_flops(self._model.arch, [len(row.token_ids) - 1 for row in rows], num_loss_tokens)

    def reset_optimizer(self, values: Optimizer) -> None:
        """Forget all optimizer state and use `values` from now on (the rate comes with each step)."""
        optimizer.reset(self._optimizer, values, weight_decay=values.weight_decay)

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
        value, norm = self._step(packs, loss, lr, gradient=-1 / num_loss_tokens)
        return {"loss": value, "gradient_norm": norm, "num_tokens": float(num_tokens(batch))}

    def policy_update(self, groups: Sequence[Group], *, settings: PolicyUpdate, lr: float) -> UpdateStats:
        """One iteration of METHOD.md §1: optimizer reset, π_i = the weights now, then the updates.

        `lr` is this iteration's rate (settings.lr after any warm-up over iterations). There are inner_steps ×
        minibatches updates, none where there is nothing to learn from. FloatingPointError where the loss or
        its gradient is not finite.
        """
        started = time.perf_counter()
        optimizer.reset(self._optimizer, settings)
        aim = objective(
            settings.objective,
            tau=settings.tau,
            baseline=settings.baseline,
            clip_ratio=settings.clip_ratio,
            kl_weight=settings.kl_weight,
        )
        drop = settings.drop_uniform_groups
        batch = flatten(groups, objective=aim, num_minibatches=settings.minibatches, drop_uniform=drop)
        iteration = Iteration(batch, aim.loss, settings.mismatch_band, self._device)
        losses, norms = self._inner_steps(batch, iteration, settings, lr)
        return iteration.stats(losses, norms, inner_steps=settings.inner_steps, started=started)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(HF name, tensor) in layout order, without a tied output layer. Read before the next update.

        Rank 0 has them all; every rank must run through it, the others get nothing.
        """
        return self._model.tensors()

    def layout(self) -> list[TensorSpec]:
        """Where each of `tensors` lies when they are written one after another."""
        specs, offset = [], 0
        dtype = next(self._model.module.parameters()).dtype
        for name, shape in self._model.shapes():
            specs.append(TensorSpec(name, str(dtype).removeprefix("torch."), shape, offset))
            offset += math.prod(shape) * dtype.itemsize
        return specs

    def save(self, directory: Path) -> None:
        """Write an HF directory on rank 0: config, sharded safetensors, the tokenizer it was loaded with."""
        self._model.save(directory)

    def save_state(self, directory: Path) -> None:
        """Write weights, Adam's moments and its count of updates, for any layout to go on from."""
        state.save(directory, self._model, self._optimizer)

    def load_state(self, directory: Path) -> None:
        """Go on from what `save_state` wrote, to the bit; after `reset_optimizer` with the run's values.

        Returns once every rank has read it: the directory may go then. ValueError where it is another model's
        state, is not whole, or a file is damaged.
        """
        state.load(directory, self._model, self._optimizer)
        parallel.wait_for_all()

    def offload(self) -> int:
        """Move all that is as large as the model to host memory; only `onload` may follow."""
        return self._host.offload(self._wrapped, self._optimizer)

    def onload(self) -> int:
        """Take it back, to the bit; RuntimeError where the device has no room."""
        return self._host.onload()

    def logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """For each row the log-probs of its loss tokens."""
        return self._of_loss_tokens(rows)

    def greedy_matches(self, rows: Sequence[Row]) -> list[list[bool]]:
        """For each row, whether each of its loss tokens is the one that greedy decoding would take there."""
        self._model.module.less_best = True
        try:
            return [[value == 0 for value in row] for row in self._of_loss_tokens(rows)]
        finally:
            self._model.module.less_best = False

    def _of_loss_tokens(self, rows: Sequence[Row]) -> list[list[float]]:
        """What the model gives for the loss tokens of each row: all on every rank, each does its share."""
        counts = [sum(row.in_loss) for row in rows]
        ends = torch.tensor([0, *counts], device=self._device).cumsum(0)
        flat = torch.zeros(sum(counts), device=self._device)

        def see(packed: Packed, values_T: Tensor) -> None:
            starts_N = ends[list(packed.indices)]
            flat[(starts_N[packed.row_T] + packed.ordinal_T)[packed.in_loss_T]] = values_T[packed.in_loss_T]

        packs = self._pack(rows, range(len(rows)), self._max_tokens)
        schedule.forward(self._wrapped, packs, see)
        # A token is seen by one rank: the sum adds zeros, and rounds nothing.
        values = parallel.from_last_stage(parallel.sum_over_data(flat, context=True)).split(counts)
        return [row.tolist() for row in values]

    @property
    def _device(self) -> torch.device:
        return torch.device("cuda" if self._cuda else "cpu")

    def _inner_steps(
        self, batch: PolicyRows, iteration: Iteration, settings: PolicyUpdate, lr: float
    ) -> tuple[list[float], list[float]]:
        """Loss and gradient norm of every update. A lone minibatch's first forward pass is its reference."""
        limit = settings.max_tokens_per_microbatch
        parts = [self._pack(batch.rows, part, limit) for part in batch.minibatches]
        single = len(parts) == 1
        if not single:
            schedule.forward(
                self._wrapped, [packed for packs in parts for packed in packs], iteration.observe
            )
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

    def _pack(self, rows: Sequence[Row], indices: Sequence[int], max_tokens: int) -> list[Packed]:
        """The rows at `indices` in microbatches, of which these are this rank's."""
        longest = max((len(rows[index].token_ids) for index in indices), default=0)
        if longest > self.max_positions:
            raise ValueError(f"a row has {longest} tokens; the model allows {self.max_positions}")
        batches = microbatches([len(rows[index].token_ids) - 1 for index in indices], max_tokens)
        return [
            pack(rows, [indices[place] for place in places], cuda=self._cuda, share=self._share)
            for places in batches[parallel.data_rank() :: parallel.data_size()]
        ]

    def _step(
        self, packs: Sequence[Packed], loss: Loss, lr: float, *, gradient: float | None = None
    ) -> tuple[float, float]:
        """One update by the sum of `loss` over microbatches: (objective, gradient norm before clipping)."""
        self._wrapped.zero_grad_buffer()
        self._optimizer.zero_grad()
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        schedule.backward(self._wrapped, packs, loss, total, gradient=gradient)
        finalize_model_grads([self._wrapped])
        value = float(parallel.from_last_stage(parallel.sum_over_data(total, context=True)))
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value}; lower the learning rate or look at the batch")
        norm = optimizer.step(self._optimizer, lr)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm} at loss {value}; the weights are spoilt")
        return value, norm
