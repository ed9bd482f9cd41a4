"""Log-probs of labels out of hidden states, a chunk of tokens at a time: a sequence's logits are never held.

Suffixes: L tokens, C tokens of a chunk, H hidden, V this rank's part of the vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 128 * 2**20  # of a chunk's logits in fp32; twice as much is held at a time
PIECE_BYTES = 64 * 2**20  # of the weight's gradient, where it is added in another type than it is made in


def token_logprobs(
    states_LH: Tensor,
    weight_VH: Tensor,
    labels_L: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    weights_L: Tensor | None = None,
    less_best: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """log softmax(states · weightᵀ) at each label, fp32. Shape L.

    With `less_best`, less the largest log-prob in its place: 0 where greedy decoding takes the label, else
    negative. That has no gradient.

    `group` shares the vocabulary: rank r's weight is the r-th part of it, every rank has all states and gets
    the same result, and the gradient of the states is the rank's share of a sum over `group`.

    Memory beyond the result: 2 × `chunk_bytes`, whatever L and H, and the gradients. That of a weight with a
    `main_grad`, Megatron's buffer, is added there at once and has no memory of its own.

    The backward pass works the logits out again, unless they are a single chunk's, which are kept; or unless
    `weights_L` says what the result's gradient will be: then the gradients are made in the forward pass.
    ValueError from the backward pass where it was not.
    """
    vocabulary = _Vocabulary.of(group, weight_VH.size(0))
    size = _chunk_size(len(labels_L), weight_VH.size(0), chunk_bytes)
    if torch.is_grad_enabled() and not less_best:
        buffer_VH = getattr(weight_VH, "main_grad", None)
        return _TokenLogprobs.apply(states_LH, weight_VH, buffer_VH, labels_L, weights_L, vocabulary, size)
    logprobs_L = states_LH.new_empty(len(labels_L), dtype=torch.float32)
    for chunk in _chunks(states_LH, weight_VH, labels_L, vocabulary, size):
        best_C = vocabulary.best(chunk.logprobs_CV) if less_best else 0.0
        logprobs_L[chunk.part] = chunk.chosen_C - best_C
    return logprobs_L


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The labels [first, first + size) of this rank."""

    group: dist.ProcessGroup | None  # None where this rank has all
    first: int
    size: int

    @staticmethod
    def of(group: dist.ProcessGroup | None, size: int) -> "_Vocabulary":
        if group is None or group.size() == 1:
            return _Vocabulary(None, 0, size)
        return _Vocabulary(group, dist.get_rank(group) * size, size)

    def places(self, labels_C: Tensor) -> tuple[Tensor, Tensor]:
        """Each label's column here, and whether it has one: another rank's gets some column."""
        own_C = (labels_C >= self.first) & (labels_C < self.first + self.size)
        return (labels_C - self.first).clamp(0, self.size - 1), own_C

    def extend_(self, logprobs_CV: Tensor, log_sums_C: Tensor) -> None:
        """Make log-probs over this rank's part, whose log Σ exp is given, log-probs over all of it."""
        if self.group is None:
            return
        largest_C = log_sums_C.clone()
        dist.all_reduce(largest_C, op=dist.ReduceOp.MAX, group=self.group)
        sums_C = (log_sums_C - largest_C).exp()
        dist.all_reduce(sums_C, group=self.group)
        logprobs_CV += (log_sums_C - largest_C - sums_C.log())[:, None]

    def best(self, logprobs_CV: Tensor) -> Tensor:
        """The largest log-prob of each token over all of the vocabulary."""
        best_C = logprobs_CV.amax(1)
        if self.group is not None:
            dist.all_reduce(best_C, op=dist.ReduceOp.MAX, group=self.group)
        return best_C

    def chosen(self, logprobs_CV: Tensor, labels_C: Tensor) -> Tensor:
        """Each label's log-prob, wherever its column is."""
        columns_C, own_C = self.places(labels_C)
        chosen_C = logprobs_CV.gather(1, columns_C[:, None])[:, 0]
        if self.group is not None:
            chosen_C = chosen_C.masked_fill(~own_C, 0.0)
            dist.all_reduce(chosen_C, group=self.group)
        return chosen_C


@dataclass(frozen=True, slots=True)
class _Chunk:
    part: slice  # of the L tokens
    logprobs_CV: Tensor  # fp32; overwritten by the next chunk's
    chosen_C: Tensor


def _chunk_size(num_tokens: int, vocabulary: int, chunk_bytes: int) -> int:
    """Tokens of a chunk: as few chunks as fit, of about one size."""
    most = max(1, chunk_bytes // (4 * vocabulary))
    return max(1, -(-num_tokens // max(1, -(-num_tokens // most))))


def _chunks(
    states_LH: Tensor, weight_VH: Tensor, labels_L: Tensor, vocabulary: _Vocabulary, size: int
) -> Iterator[_Chunk]:
    shape = min(size, len(labels_L)), vocabulary.size
    logits, logprobs = states_LH.new_empty(shape), states_LH.new_empty(shape, dtype=torch.float32)
    for start in range(0, len(labels_L), size):
        part = slice(start, min(start + size, len(labels_L)))
        rows = part.stop - start
        logits_CV = torch.mm(states_LH[part], weight_VH.t(), out=logits[:rows])
        logprobs_CV = torch.log_softmax(logits_CV, -1, dtype=torch.float32, out=logprobs[:rows])
        vocabulary.extend_(logprobs_CV, logits_CV[:, 0].float() - logprobs_CV[:, 0])
        yield _Chunk(part, logprobs_CV, vocabulary.chosen(logprobs_CV, labels_L[part]))


class _Gradients:
    """Of states and weight, gathered chunk by chunk; the weight's in `buffer_VH` where there is one."""

    def __init__(
        self,
        states_LH: Tensor,
        weight_VH: Tensor,
        buffer_VH: Tensor | None,
        labels_L: Tensor,
        vocabulary: _Vocabulary,
    ) -> None:
        self._states_LH, self._weight_VH, self._labels_L = states_LH, weight_VH, labels_L
        self._vocabulary = vocabulary
        self._of_states_LH = torch.empty_like(states_LH)
        self._returned = buffer_VH is None
        self._of_weight_VH = (
            torch.zeros_like(weight_VH, dtype=torch.float32) if buffer_VH is None else buffer_VH
        )

    def add(self, part: slice, logprobs_CV: Tensor, gradient_C: Tensor) -> None:
        """Those of `gradient_C` · log p(label), whose logits have onehot(label) − p. Overwrites log p."""
        columns_C, own_C = self._vocabulary.places(self._labels_L[part])
        excess_CV = logprobs_CV.exp_().scatter_add_(1, columns_C[:, None], -own_C[:, None].float())
        excess_CV = excess_CV.to(self._states_LH.dtype)
        # Scaling, H wide, what comes out of one product and goes into the other spares a pass over V.
        scale_C1 = -gradient_C[:, None]
        self._of_states_LH[part] = torch.mm(excess_CV, self._weight_VH) * scale_C1
        scaled_CH = (self._states_LH[part] * scale_C1).to(excess_CV.dtype)
        if excess_CV.dtype == self._of_weight_VH.dtype:
            self._of_weight_VH.addmm_(excess_CV.t(), scaled_CH)
            return
        rows = max(1, PIECE_BYTES // (scaled_CH.size(1) * scaled_CH.element_size()))
        for start in range(0, len(self._of_weight_VH), rows):
            piece = slice(start, start + rows)
            self._of_weight_VH[piece] += torch.mm(excess_CV[:, piece].t(), scaled_CH)

    def take(self) -> tuple[Tensor, Tensor | None]:
        """Both in the types of states and weight; None for one that is in its buffer."""
        return self._of_states_LH, self._of_weight_VH.to(self._weight_VH.dtype) if self._returned else None


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_LH: Tensor,
        weight_VH: Tensor,
        buffer_VH: Tensor | None,
        labels_L: Tensor,
        weights_L: Tensor | None,
        vocabulary: _Vocabulary,
        size: int,
    ) -> Tensor:
        logprobs_L = states_LH.new_empty(len(labels_L), dtype=torch.float32)
        gradients = None
        if weights_L is not None:
            gradients = _Gradients(states_LH, weight_VH, buffer_VH, labels_L, vocabulary)
        kept = None
        for chunk in _chunks(states_LH, weight_VH, labels_L, vocabulary, size):
            logprobs_L[chunk.part] = chunk.chosen_C
            if gradients is not None and weights_L is not None:
                gradients.add(chunk.part, chunk.logprobs_CV, weights_L[chunk.part])
            elif size >= len(labels_L):
                kept = chunk.logprobs_CV
        ctx.gradients, ctx.buffer_VH, ctx.vocabulary, ctx.size = gradients, buffer_VH, vocabulary, size
        ctx.save_for_backward(states_LH, weight_VH, labels_L, weights_L, kept)
        return logprobs_L

    @staticmethod
    @once_differentiable  # type: ignore[misc]
    def backward(ctx: Any, gradient_L: Tensor) -> tuple[Tensor | None, ...]:
        states_LH, weight_VH, labels_L, weights_L, kept = ctx.saved_tensors
        gradients, ctx.gradients = ctx.gradients, None
        if weights_L is None:
            gradients = _Gradients(states_LH, weight_VH, ctx.buffer_VH, labels_L, ctx.vocabulary)
            if kept is not None:
                gradients.add(slice(0, len(labels_L)), kept, gradient_L)
            else:
                for chunk in _chunks(states_LH, weight_VH, labels_L, ctx.vocabulary, ctx.size):
                    gradients.add(chunk.part, chunk.logprobs_CV, gradient_L[chunk.part])
        elif gradients is None:
            raise RuntimeError("the gradients made in the forward pass can be taken once")
        elif not torch.allclose(gradient_L, weights_L.to(gradient_L.dtype), rtol=1e-4, atol=0.0):
            raise ValueError("the loss does not weigh the log-probs as weights_L says; leave weights_L out")
        of_states_LH, of_weight_VH = gradients.take()
        return of_states_LH, of_weight_VH, None, None, None, None, None
