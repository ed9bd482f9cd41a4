"""Seconds a training step takes.

Compute: the operations of k15.algo.flops at a share of the GPU's peak. Recomputation repeats the layers'
forward pass, a third more, communication and all (Korthikanti et al., arXiv 2205.05198 §5). Tensor
parallelism: two all-reduces of the hidden states per layer and direction, of the same volume as with
sequence parallelism (§4.2.2 there). Context parallelism: keys and values gathered per layer, their
gradients scattered. Pipeline: (m + p - 1) of m microbatches (Narayanan et al., arXiv 2104.04473 §2.2),
their states sent on. Data: gradients summed in fp32 once a step over a ring, 2·(n - 1)/n of their bytes.
The optimizer reads and writes its state once. Nothing overlaps: the trainer waits for each.
"""

from dataclasses import dataclass, fields, replace

from k15.algo.flops import training_flops
from k15.recipes.pipeline import Layout
from k15.sizing.hardware import EFFICIENCY, GPUS_IN_NODE, LINK_EFFICIENCY, Gpu
from k15.sizing.memory import ADAM_BYTES, FP32, Training, rank_parameters
from k15.sizing.shape import Shape
from k15.sizing.workload import Workload


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one step, by what they go to."""

    compute: float
    tensor: float
    context: float
    pipeline: float  # states between ranks, and the bubble
    data: float
    optimizer: float

    @property
    def total(self) -> float:
        """The step."""
        return sum(float(getattr(self, field.name)) for field in fields(self))


def model_flops(shape: Shape, work: Workload) -> float:
    """Operations an update needs, recomputation not counted."""
    row = work.row_tokens
    return work.step_tokens / row * training_flops(shape, [row], row)


def step_time(shape: Shape, layout: Layout, work: Workload, training: Training, gpu: Gpu) -> StepTime:
    """The step of the slowest pipeline rank: the last, which has the output layer too."""
    microbatches = -(-work.num_microbatches // layout.data)
    tokens = work.step_tokens / (microbatches * layout.data)
    work_again, send_again = (4 / 3, 3 / 2) if training.recompute else (1.0, 1.0)
    layers = shape.num_layers / layout.pipeline
    flops = layers * work_again * _layer_flops(shape, work) + _output_flops(shape)
    compute = tokens * flops / (layout.tensor * layout.context) / (gpu.flops * EFFICIENCY)
    tensor = layers * send_again * _tensor_seconds(shape, layout, training, gpu, tokens)
    context = layers * send_again * _context_seconds(shape, layout, training, gpu, tokens)
    send = _send_seconds(shape, layout, training, gpu, tokens)
    bubble = (layout.pipeline - 1) * (compute + tensor + context + send)
    return StepTime(
        compute=microbatches * compute,
        tensor=microbatches * tensor,
        context=microbatches * context,
        pipeline=microbatches * send + bubble,
        data=_data_seconds(shape, layout, training, gpu),
        optimizer=_optimizer_seconds(shape, layout, training, gpu),
    )


def _layer_flops(shape: Shape, work: Workload) -> float:
    """Of one layer, per token of a full row."""
    row = work.row_tokens
    return training_flops(replace(shape, num_layers=1), [row], 0) / row


def _output_flops(shape: Shape) -> float:
    """Of the output layer, per token."""
    return training_flops(replace(shape, num_layers=0), [1], 1)


def _tensor_seconds(shape: Shape, layout: Layout, training: Training, gpu: Gpu, tokens: float) -> float:
    """Four all-reduces of a layer's hidden states, forwards and backwards."""
    states = tokens / layout.context * shape.hidden_size * training.weight_bytes
    return 4 * 2 * _ring(layout.tensor) * states / _bandwidth(gpu, layout.tensor)


def _context_seconds(shape: Shape, layout: Layout, training: Training, gpu: Gpu, tokens: float) -> float:
    """A layer's keys and values gathered, and their gradients scattered."""
    gathered = tokens * 2 * shape.group_width / layout.tensor * training.weight_bytes
    return 2 * _ring(layout.context) * gathered / _bandwidth(gpu, layout.tensor * layout.context)


def _send_seconds(shape: Shape, layout: Layout, training: Training, gpu: Gpu, tokens: float) -> float:
    """Hidden states to the next pipeline rank, and their gradient back."""
    if layout.pipeline == 1:
        return 0.0
    shared = layout.context * (layout.tensor if layout.sequence else 1)
    states = tokens / shared * shape.hidden_size * training.weight_bytes
    return 2 * states / _bandwidth(gpu, layout.world)


def _data_seconds(shape: Shape, layout: Layout, training: Training, gpu: Gpu) -> float:
    ranks = layout.data * layout.context
    parameters = rank_parameters(shape, layout, layout.pipeline - 1)
    # The distributed optimizer scatters gradients and gathers weights; else gradients are summed everywhere.
    per_parameter = FP32 + training.weight_bytes if training.distributed_optimizer else 2 * FP32
    return _ring(ranks) * per_parameter * parameters / _bandwidth(gpu, layout.tensor * ranks)


def _optimizer_seconds(shape: Shape, layout: Layout, training: Training, gpu: Gpu) -> float:
    parameters = rank_parameters(shape, layout, layout.pipeline - 1)
    shards = layout.data * layout.context if training.distributed_optimizer else 1
    touched = FP32 + training.weight_bytes + 2 * (FP32 + ADAM_BYTES)
    return parameters / shards * touched / gpu.memory_bandwidth


def _ring(ranks: int) -> float:
    """The share of the bytes each of `ranks` sends in a ring's all-gather or reduce-scatter."""
    return (ranks - 1) / ranks


def _bandwidth(gpu: Gpu, ranks: int) -> float:
    """Of a collective whose ranks lie within `ranks` neighbouring GPUs."""
    inside = gpu.node_bandwidth if ranks <= GPUS_IN_NODE else gpu.network_bandwidth
    return inside * LINK_EFFICIENCY
