"""A Megatron model out of a Hugging Face directory, and back.

Each rank holds its stage's layers and its part of every matrix. Rank 0 alone writes and publishes: it takes
the others' parts one row of the weight table at a time.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from k15.engines.megatron import architecture, checkpoint, contents, held, mapping, parallel
from k15.engines.megatron.architecture import Architecture
from k15.engines.megatron.loss_model import LossModel
from k15.engines.megatron.spec import RowRotary, layer_spec
from k15.recipes.pipeline import Layout


@dataclass(frozen=True, slots=True)
class Model:
    """This rank's part of a Megatron model, with what is needed to write the whole as Hugging Face's."""

    arch: Architecture
    module: LossModel
    directory: Path  # where it came from: its tokenizer is there
    layout: Layout
    places: dict[str, held.Held]  # every parameter of the whole model; not a tied one's copy

    @property
    def table(self) -> list[tuple[str, mapping.Row]]:
        """(Megatron name, row) of every parameter of the whole model, in HF order."""
        return mapping.rows(self.places, self.arch.num_layers)

    @property
    def heads(self) -> mapping.Heads:
        """What `mapping.join` and `split` need of one rank's part."""
        groups, queries, dim = self.arch.heads
        return groups // self.layout.tensor, queries, dim

    @property
    def num_parameters(self) -> int:
        """Weights of the whole model, a tied one counted once."""
        return sum(prod(shape) for _, shape in self.shapes())

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """This rank's parameters by their name in the whole model."""
        return held.parameters(self.module)

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(HF name, shape) of the whole model's tensors in HF order."""
        yield from contents.shapes(self.arch).items()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """On rank 0 (HF name, detached tensor) of the whole model, in HF order, a row of the table at a time.

        Every rank must run through it at the same time: the others send what they hold and get nothing.
        """
        return self.named(self.parameters())

    @torch.no_grad()
    def named(self, values: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """`values`, one shaped as each of `parameters`, as `tensors` gives those."""
        like = next(iter(values.values()))
        for name, row in self.table:
            parts = self._collect(name, row, values, like)
            if parts:
                split = [mapping.split(row.layout, part, self.heads) for part in parts]
                for place, hf_name in enumerate(row.hugging_face):
                    pieces = [part[place] for part in split]
                    yield hf_name, pieces[0] if len(pieces) == 1 else torch.cat(pieces, row.cut)

    @torch.no_grad()
    def take(self, source: checkpoint.Checkpoint, values: Mapping[str, Tensor]) -> None:
        """Fill `values`, as `named` takes them, from HF tensors; the inverse of `named`, to the bit.

        ValueError: what `source` lacks, has too much, or has in another shape.
        """
        contents.refuse_misfit(source, self.arch)
        part, parts = parallel.tensor_rank(), self.layout.tensor
        for name, row in mapping.rows(values, self.arch.num_layers):
            names = [
                mapping.EMBEDDING if self.arch.tied and n == mapping.OUTPUT else n for n in row.hugging_face
            ]
            pieces = [source.tensor(n, cut=row.cut, part=part, parts=parts) for n in names]
            values[name].copy_(mapping.join(row.layout, pieces, self.heads))

    def save(self, directory: Path) -> None:
        """Write an HF directory: updated config, sharded safetensors, the tokenizer as it was.

        Rank 0 writes; every rank must call it.
        """
        if dist.get_rank():
            for _ in self.tensors():
                pass
            return
        dtype = next(self.module.parameters()).dtype
        key = "torch_dtype" if "torch_dtype" in self.arch.config else "dtype"
        config = {**self.arch.config, key: str(dtype).removeprefix("torch.")}
        shard_bytes = checkpoint.shard_bytes_of(dtype.itemsize * self.num_parameters)
        checkpoint.save(
            directory, self.tensors(), config=config, companions=self.directory, shard_bytes=shard_bytes
        )

    def _collect(self, name: str, row: mapping.Row, own: Mapping[str, Tensor], like: Tensor) -> list[Tensor]:
        """On rank 0 the parts of one parameter, by tensor-parallel rank; the others send theirs."""
        where, me = self.places[name], dist.get_rank()
        first = where.stage * self.layout.world // self.layout.pipeline
        senders = range(first, first + (1 if row.cut is None else self.layout.tensor))
        if me == 0:
            return [
                own[name].detach() if rank == 0 else _receive(rank, where.shape, like) for rank in senders
            ]
        if me in senders:
            dist.send(own[name].detach().contiguous(), 0)
        return []


def load(
    directory: Path,
    *,
    rope_base: float | None = None,
    max_positions: int | None = None,
    precision: torch.dtype = torch.float32,
    recompute: bool = False,
    layout: Layout | None = None,
) -> Model:
    """Build and fill the model of an HF directory, with another RoPE base or more positions if asked for.

    Torch's layers on CPU, TransformerEngine's on CUDA. ValueError: what the directory lacks or has too much,
    or what of the model the layout does not divide.
    """
    cuda = torch.cuda.is_available()
    layout = layout or Layout()
    arch = architecture.read(directory, rope_base=rope_base, max_positions=max_positions)
    architecture.refuse_undivided(arch, layout)
    with warnings.catch_warnings():  # Megatron's own defaults are deprecated in its own eyes
        warnings.simplefilter("ignore")
        config = architecture.transformer_config(
            arch, layout, cuda=cuda, precision=precision, recompute=recompute
        )
        module = _build(arch, config, cuda=cuda)
    model = Model(arch, module, directory, layout, held.everywhere(module, tied=arch.tied))
    _tell_what_is_cut(model)
    model.take(checkpoint.Checkpoint(directory), model.parameters())
    return model


def _tell_what_is_cut(model: Model) -> None:
    """Mark the parameters that tensor-parallel ranks share: Megatron's norm counts all others once.

    Its own layers mark them as they fill them, which is left out: every weight comes from a checkpoint.
    """
    parameters = model.parameters()
    for name, row in mapping.rows(parameters, model.arch.num_layers):
        if row.cut is not None:
            parameters[name].tensor_model_parallel = True
            parameters[name].partition_dim = row.cut
            parameters[name].partition_stride = 1


def _receive(rank: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    part = torch.empty(shape, dtype=like.dtype, device=like.device)
    dist.recv(part, rank)
    return part


def _build(arch: Architecture, config: TransformerConfig, *, cuda: bool) -> LossModel:
    module = LossModel(
        config=config,
        transformer_layer_spec=layer_spec(config, cuda=cuda),
        vocab_size=arch.vocab_size,
        max_sequence_length=arch.max_positions,
        pre_process=parallel.is_first_stage(),
        post_process=parallel.is_last_stage(),
        parallel_output=True,
        share_embeddings_and_output_weights=arch.tied,
        position_embedding_type="rope",
        rotary_base=arch.rope_base,
    )
    if cuda:
        return module.cuda()
    module.rotary_pos_emb = RowRotary(
        arch.head_dim, rotary_percent=1.0, rotary_base=arch.rope_base, use_cpu_initialization=True
    )
    return module
