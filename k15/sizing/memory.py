"""Bytes a training step holds on one GPU (or one process of the CPU trainer).

Weights and optimizer: per parameter, bf16 training holds 2 bytes of weight, 4 of fp32 gradient, 4 of fp32
master weight and 8 of Adam's moments, fp32 training 4 + 4 + 8 (Rajbhandari et al., arXiv 1910.02054 §3.1;
gradients are summed in fp32 here). The distributed optimizer cuts master and moments over the data and
context ranks.

Activations: counted tensor by tensor as the layers keep them for the backward pass, after Korthikanti et
al., arXiv 2205.05198 §4: tensor parallelism cuts what lies between a layer's first and last matrix,
sequence parallelism the rest too, and context parallelism the tokens. A pipeline rank holds as many
microbatches as there are ranks from it to the last (1F1B, Narayanan et al., arXiv 2104.04473 §2.2). With
recomputation a layer keeps its input alone (arXiv 2205.05198 §5), and one layer at a time is whole.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal

from k15.recipes.pipeline import Layout
from k15.sizing.shape import Shape
from k15.sizing.workload import Workload

Kernels = Literal["transformer_engine", "torch"]
FP32 = 4
ADAM_BYTES = 8  # two fp32 moments
CHUNK_BYTES = 128 * 2**20  # of the logits that the loss works out at once, in fp32; twice as much is held


@dataclass(frozen=True, slots=True)
class Training:
    """How the trainer is built; the defaults are what it is on GPUs."""

    recompute: bool = False
    distributed_optimizer: bool = False
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    kernels: Kernels = "transformer_engine"

    @property
    def weight_bytes(self) -> int:
        """Of one parameter or activation."""
        return 2 if self.precision == "bfloat16" else FP32


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one rank, by what they are for."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    loss: float

    @property
    def total(self) -> float:
        """All of them, at the peak."""
        return sum(float(getattr(self, field.name)) for field in fields(self))


def fullest(shape: Shape, layout: Layout, work: Workload, training: Training) -> Memory:
    """The memory of the pipeline rank that needs most."""
    ranks = (of_rank(shape, layout, work, training, rank) for rank in range(layout.pipeline))
    return max(ranks, key=lambda memory: memory.total)


def of_rank(shape: Shape, layout: Layout, work: Workload, training: Training, rank: int) -> Memory:
    """The memory of pipeline rank `rank`, 0 the one with the embedding."""
    last = rank == layout.pipeline - 1
    parameters = rank_parameters(shape, layout, rank)
    tokens = work.microbatch_tokens / layout.context
    activations = _activations(shape, layout, work, training, rank) * tokens
    loss = _loss(shape, layout, training, tokens) if last else 0.0
    matrix = 2 * shape.hidden_size * shape.intermediate_size  # a layer's largest
    fresh = matrix * training.weight_bytes / layout.tensor
    if rank == 0:  # the embedding's comes when loss and activations of its microbatch are gone
        table = shape.embedding_parameters / layout.tensor * training.weight_bytes
        fresh = max(fresh, table - loss - activations / _held(layout, work, rank))
    master = 0 if training.precision == "float32" else FP32
    shards = layout.data * layout.context if training.distributed_optimizer else 1
    return Memory(
        weights=parameters * training.weight_bytes,
        # One weight's fresh gradient lies beside the buffer it is added to.
        gradients=parameters * FP32 + fresh,
        optimizer=parameters * (master + ADAM_BYTES) / shards,
        activations=activations,
        loss=loss,
    )


def rank_parameters(shape: Shape, layout: Layout, rank: int) -> float:
    """Parameters on one tensor rank of pipeline rank `rank`."""
    total = shape.num_layers / layout.pipeline * shape.layer_parameters(layout.tensor)
    table = shape.embedding_parameters / layout.tensor
    first, last = rank == 0, rank == layout.pipeline - 1
    if first:
        total += table
    if last:
        # A tied output layer is the first rank's embedding; on another rank it is a copy.
        total += shape.hidden_size + (0 if shape.tied and first else table)
    return total


def _activations(shape: Shape, layout: Layout, work: Workload, training: Training, rank: int) -> float:
    """Bytes per token of a microbatch, over the microbatches that pipeline rank `rank` holds at once."""
    whole = layer_bytes(shape, layout, training)
    layers = shape.num_layers / layout.pipeline
    held = _held(layout, work, rank)
    if not training.recompute:
        return whole * layers * held
    entry = shape.hidden_size * training.weight_bytes / _norm_share(layout)
    return entry * layers * held + whole


def _held(layout: Layout, work: Workload, rank: int) -> int:
    """Microbatches whose activations pipeline rank `rank` holds at once."""
    per_rank = -(-work.num_microbatches // layout.data)
    return min(layout.pipeline - rank, per_rank)


def layer_bytes(shape: Shape, layout: Layout, training: Training) -> float:
    """Bytes that one layer keeps for the backward pass, per token of a rank.

    h hidden, q query and g key width, f MLP width, e bytes of an element:
    - both norms: TransformerEngine keeps input and output, 4·h·e; torch keeps input and normalised values
      in fp32 and the output, 2·h·(8 + e);
    - attention: QKV together (the values are a view of it), q + 2g; rotated queries and keys, q + g; its
      output, q, and in torch that again in the order of tokens; keys and values of other context ranks;
    - Qwen3's head norms: TransformerEngine keeps copies of queries and keys; torch twice that in fp32;
    - torch alone: cosines and sines of queries and keys, four head dimensions;
    - MLP: gate and up together, 2·f; silu of the gate, up, and their product, f each.
    """
    size = training.weight_bytes
    torch = training.kernels == "torch"
    query, group = shape.query_width / layout.tensor, shape.group_width / layout.tensor
    norms = 2 * _norm_bytes(shape, training) / _norm_share(layout)
    attention = (query + 2 * group) + (query + group) + (2 * query if torch else query)
    attention += 2 * group * (layout.context - 1)
    head_norms = 0.0
    if shape.family == "qwen3":
        head_norms = (query + group) * (2 * FP32 if torch else size)
    rotary = 4 * shape.head_dim if torch else 0
    mlp = 5 * shape.intermediate_size / layout.tensor
    return norms + head_norms + (attention + rotary + mlp) * size


def _loss(shape: Shape, layout: Layout, training: Training, tokens: float) -> float:
    """Every token in the loss: the last norm, states and their gradient, one chunk."""
    table = shape.vocab_size / layout.tensor
    logits = tokens * table * FP32
    chunk = logits / max(1, math.ceil(logits / CHUNK_BYTES))  # as few as fit, of one size
    copies = 2 if layout.sequence else 1  # the states' gradient; all ranks' tokens
    states = _norm_bytes(shape, training) / _norm_share(layout)
    states += copies * shape.hidden_size * training.weight_bytes
    return states * tokens + 2 * chunk


def _norm_bytes(shape: Shape, training: Training) -> float:
    """Of a token: input and output, or with torch input and normalised values in fp32 and the output."""
    size = training.weight_bytes
    return shape.hidden_size * (2 * FP32 + size if training.kernels == "torch" else 2 * size)


def _norm_share(layout: Layout) -> int:
    """Ranks that share the tokens of norms and residuals."""
    return layout.tensor if layout.sequence else 1
