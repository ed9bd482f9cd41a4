"""A Megatron model out of a Hugging Face directory, and back."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from k15.engines.megatron import architecture, checkpoint, mapping
from k15.engines.megatron.architecture import Architecture
from k15.engines.megatron.batch import Packed
from k15.engines.megatron.spec import RowRotary, layer_spec

IGNORED = "rotary_emb.inv_freq"  # old checkpoints store this constant


class LossModel(GPTModel):  # type: ignore[misc]
    """A GPTModel that, given a loss mask, works out logits of the tokens in the loss alone."""

    def _postprocess(
        self, *, hidden_states: Tensor, labels: Tensor | None, loss_mask: Tensor | None, **rest: Any
    ) -> Tensor:
        """States [t, 1, h], labels and mask [1, t] -> losses [1, tokens in the loss]."""
        if labels is not None and loss_mask is not None:
            (kept,) = loss_mask[0].nonzero(as_tuple=True)
            hidden_states, labels = hidden_states.index_select(0, kept), labels.index_select(1, kept)
        return super()._postprocess(hidden_states=hidden_states, labels=labels, loss_mask=None, **rest)


@dataclass(frozen=True, slots=True)
class Model:
    """A Megatron model with what is needed to write it as Hugging Face's."""

    arch: Architecture
    module: LossModel
    directory: Path  # where it came from: its tokenizer is there

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(HF name, detached tensor) in HF order, one row of the table at a time."""
        parameters = dict(self.module.named_parameters())
        for name, row in mapping.rows(parameters, self.arch.num_layers):
            parts = mapping.split(row.layout, parameters[name].detach(), self.arch.heads)
            yield from zip(row.hugging_face, parts, strict=True)

    def save(self, directory: Path) -> None:
        """Write an HF directory: updated config, sharded safetensors, the tokenizer as it was."""
        dtype = str(next(self.module.parameters()).dtype).removeprefix("torch.")
        key = "torch_dtype" if "torch_dtype" in self.arch.config else "dtype"
        config = {**self.arch.config, key: dtype}
        checkpoint.save(directory, self.tensors(), config=config, companions=self.directory)


def load(directory: Path, *, rope_base: float | None = None, max_positions: int | None = None) -> Model:
    """Build and fill the model of an HF directory, with another RoPE base or more positions if asked for.

    fp32 on CPU, bf16 with TransformerEngine on CUDA. ValueError: what the directory lacks or has too much.
    """
    cuda = torch.cuda.is_available()
    arch = architecture.read(directory, rope_base=rope_base, max_positions=max_positions)
    with warnings.catch_warnings():  # Megatron's own defaults are deprecated in its own eyes
        warnings.simplefilter("ignore")
        model = Model(arch, _build(arch, cuda=cuda), directory)
    _fill(model, checkpoint.Checkpoint(directory))
    return model


def logprobs(module: torch.nn.Module, packed: Packed) -> Tensor:
    """log p of every label in the loss, and 0 for the others, fp32. Shape T.

    `module` is the LossModel or a wrapper of it.
    """
    losses_L = module(
        packed.tokens_T[None],
        packed.positions_T[None],
        None,
        labels=packed.labels_T[None],
        loss_mask=packed.in_loss_T[None],
        packed_seq_params=packed.layout,
    )[0].float()
    return losses_L.new_zeros(packed.in_loss_T.shape).masked_scatter(packed.in_loss_T, -losses_L)


def _build(arch: Architecture, *, cuda: bool) -> LossModel:
    config = architecture.transformer_config(arch, cuda=cuda)
    module = LossModel(
        config=config,
        transformer_layer_spec=layer_spec(config, cuda=cuda),
        vocab_size=arch.vocab_size,
        max_sequence_length=arch.max_positions,
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


@torch.no_grad()
def _fill(model: Model, source: checkpoint.Checkpoint) -> None:
    arch, parameters = model.arch, dict(model.module.named_parameters())
    table = mapping.rows(parameters, arch.num_layers)
    present = {name for name in source.names if not name.endswith(IGNORED)}
    if arch.tied and mapping.OUTPUT in present:
        if not torch.equal(source.tensor(mapping.OUTPUT), source.tensor(mapping.EMBEDDING)):
            raise ValueError(
                f"{source.directory}: config.json ties the output layer, but {mapping.OUTPUT} differs"
            )
        present.remove(mapping.OUTPUT)
    expected = [name for _, row in table for name in row.hugging_face]
    mapping.check_names(expected, present, where=str(source.directory))
    for name, row in table:
        joined = mapping.join(row.layout, [source.tensor(part) for part in row.hugging_face], arch.heads)
        if joined.shape != parameters[name].shape:
            raise ValueError(
                f"{source.directory}: {', '.join(row.hugging_face)} make {tuple(joined.shape)}, "
                f"config.json asks for {tuple(parameters[name].shape)}"
            )
        parameters[name].copy_(joined)
