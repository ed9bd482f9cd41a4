"""Packed batches: rows one after another in a single Megatron sequence, without attention across them.

Suffixes: T tokens of the batch, N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from k15.algo.packing import blocks
from k15.records import Sequence as Row


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring rows of similar length: tokens [start, end), padded to num_rows × width."""

    start: int
    end: int
    num_rows: int
    width: int
    slots_T: Tensor | None  # where each token lies in the padded block; None where nothing is padded


@dataclass
class PackedRows(PackedSeqParams):  # type: ignore[misc]
    """Where rows lie, for attention and rotary angles on CPU."""

    blocks: list[Block] = field(default_factory=list)
    positions_T: Tensor | None = None
    longest: int = 0


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows ready for a forward pass. Token t of a row predicts its label, the row's token t + 1."""

    indices: tuple[int, ...]  # of the rows, in the list they were taken from
    tokens_T: Tensor
    labels_T: Tensor
    positions_T: Tensor
    in_loss_T: Tensor  # bool
    row_T: Tensor  # place of the token's row in `indices`
    layout: PackedSeqParams

    @property
    def num_rows(self) -> int:
        """How many rows are packed."""
        return len(self.indices)

    def row_sums(self, values_T: Tensor) -> Tensor:
        """Sum over each row's loss tokens, in fp64: eq. 3 takes differences of these sums. Shape N."""
        masked_T = values_T.double() * self.in_loss_T
        return masked_T.new_zeros(self.num_rows).index_add(0, self.row_T, masked_T)


def pack(rows: Sequence[Row], indices: Sequence[int], *, cuda: bool) -> Packed:
    """The rows at `indices`, longest first."""
    order = sorted(indices, key=lambda index: -len(rows[index].token_ids))
    taken = [rows[index] for index in order]
    lengths = torch.tensor([len(row.token_ids) - 1 for row in taken])
    ends = lengths.cumsum(0)
    row_T = torch.repeat_interleave(torch.arange(len(taken)), lengths)
    positions_T = torch.arange(int(ends[-1])) - (ends - lengths)[row_T]
    device = torch.device("cuda" if cuda else "cpu")
    layout = _thd(lengths, device) if cuda else _padded(lengths, row_T, positions_T)
    return Packed(
        indices=tuple(order),
        tokens_T=_flat([row.token_ids[:-1] for row in taken], torch.long).to(device),
        labels_T=_flat([row.token_ids[1:] for row in taken], torch.long).to(device),
        positions_T=positions_T.to(device),
        in_loss_T=_flat([row.in_loss[1:] for row in taken], torch.bool).to(device),
        row_T=row_T.to(device),
        layout=layout,
    )


def _flat(values: Sequence[Sequence[int]], dtype: torch.dtype) -> Tensor:
    return torch.tensor([value for row in values for value in row], dtype=dtype)


def _thd(lengths: Tensor, device: torch.device) -> PackedSeqParams:
    bounds = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).to(device=device, dtype=torch.int32)
    longest = int(lengths.max())
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


def _padded(lengths: Tensor, row_T: Tensor, positions_T: Tensor) -> PackedRows:
    sizes = lengths.tolist()
    starts = [0, *lengths.cumsum(0).tolist()]
    made = []
    for first, last in blocks(sizes):
        start, end, width = starts[first], starts[last], sizes[first]
        full = (last - first) * width == end - start
        slots_T = None if full else (row_T[start:end] - first) * width + positions_T[start:end]
        made.append(Block(start, end, last - first, width, slots_T))
    return PackedRows(qkv_format="rows", blocks=made, positions_T=positions_T, longest=sizes[0])
