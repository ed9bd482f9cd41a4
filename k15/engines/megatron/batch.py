"""Packed batches: rows one after another in a single Megatron sequence, without attention across them.

Context-parallel ranks share every row: it is padded to 2·C equal chunks, and rank c holds chunks c and
2C − 1 − c, so that each has as much causal attention to work out. What TransformerEngine does on CUDA.
Suffixes: T tokens of the batch that this rank holds, L those of them in the loss, F tokens of all ranks
together, N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from k15.algo.packing import blocks
from k15.records import Sequence as Row


@dataclass(frozen=True, slots=True)
class Share:
    """This rank's place among the ranks that share rows, and what its number of tokens must divide by."""

    rank: int = 0
    size: int = 1
    multiple: int = 1  # tensor-parallel ranks that share tokens


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring rows of similar length: tokens [start, end), padded to num_rows × width."""

    start: int
    end: int
    num_rows: int
    width: int
    slots_T: Tensor | None  # where each token lies in the padded rows; None where nothing is padded


@dataclass(frozen=True, slots=True)
class Block:
    """The keys of some rows, and this rank's queries of them with their positions (padding: 0)."""

    keys: Span
    queries: Span
    positions: Tensor | None  # num_rows × width of queries; None where every key has its query


@dataclass
class PackedRows(PackedSeqParams):  # type: ignore[misc]
    """Where rows lie, for attention and rotary angles on CPU."""

    blocks: list[Block] = field(default_factory=list)
    positions_T: Tensor | None = None
    longest: int = 0
    gathered_F: Tensor | None = None  # where each token lies in all ranks' tokens one after another


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows ready for a forward pass. Token t of a row predicts its label, the row's token t + 1."""

    indices: tuple[int, ...]  # of the rows, in the list they were taken from
    tokens_T: Tensor
    labels_T: Tensor
    positions_T: Tensor
    in_loss_T: Tensor  # bool
    row_T: Tensor  # place of the token's row in `indices`
    ordinal_T: Tensor  # how many tokens in the loss precede this one in its row
    layout: PackedSeqParams

    @property
    def num_rows(self) -> int:
        """How many rows are packed."""
        return len(self.indices)

    @property
    def row_L(self) -> Tensor:
        """The place in `indices` of the row of each of this rank's loss tokens."""
        return self.row_T[self.in_loss_T]

    def row_sums(self, values_L: Tensor) -> Tensor:
        """Sum over each row's loss tokens on this rank, fp64: eq. 3 squares sums of many. Shape N."""
        values_L = values_L.double()
        return values_L.new_zeros(self.num_rows).index_add(0, self.row_L, values_L)

    def of_loss_tokens(self, values: Sequence[Sequence[float]]) -> Tensor:
        """Of `values`, for each row in `indices` one a loss token, those of this rank's tokens, in fp64."""
        starts_N = torch.tensor([0, *(len(row) for row in values)]).cumsum(0)[:-1].to(self.row_T.device)
        flat = torch.tensor([v for row in values for v in row], dtype=torch.float64).to(self.row_T.device)
        return flat[(starts_N[self.row_T] + self.ordinal_T)[self.in_loss_T]]


def pack(rows: Sequence[Row], indices: Sequence[int], *, cuda: bool, share: Share | None = None) -> Packed:
    """This rank's share of the rows at `indices`, longest first; the padding is never in the loss."""
    share = share or Share()
    order = sorted(indices, key=lambda index: -len(rows[index].token_ids))
    taken = [rows[index] for index in order]
    lengths_N = torch.tensor([len(row.token_ids) - 1 for row in taken])
    widths_N = _widths(lengths_N, share)
    row_F = torch.repeat_interleave(torch.arange(len(taken)), widths_N)
    positions_F = torch.arange(len(row_F)) - (widths_N.cumsum(0) - widths_N)[row_F]
    real_F = positions_F < lengths_N[row_F]
    device = torch.device("cuda" if cuda else "cpu")
    held_T, gathered_F = _held(widths_N, row_F, positions_F, share)

    def place(values: Sequence[Sequence[int]], dtype: torch.dtype) -> Tensor:
        flat = torch.tensor([value for row in values for value in row], dtype=dtype)
        if len(flat) < len(real_F):
            flat = torch.zeros(len(real_F), dtype=dtype).masked_scatter(real_F, flat)
        return flat

    in_loss_F = place([row.in_loss[1:] for row in taken], torch.bool)
    before_N = torch.tensor([0, *(sum(row.in_loss) for row in taken)]).cumsum(0)
    ordinal_F = in_loss_F.cumsum(0) - in_loss_F.long() - before_N[row_F]

    def hold(values_F: Tensor) -> Tensor:
        return (values_F if held_T is None else values_F[held_T]).to(device)

    positions_T, row_T = hold(positions_F), hold(row_F)
    layout = _thd(widths_N, device) if cuda else _padded(widths_N, positions_T, share.size)
    if isinstance(layout, PackedRows):
        layout.gathered_F = gathered_F
    return Packed(
        indices=tuple(order),
        tokens_T=hold(place([row.token_ids[:-1] for row in taken], torch.long)),
        labels_T=hold(place([row.token_ids[1:] for row in taken], torch.long)),
        positions_T=positions_T,
        in_loss_T=hold(in_loss_F),
        row_T=row_T,
        ordinal_T=hold(ordinal_F),
        layout=layout,
    )


def _widths(lengths_N: Tensor, share: Share) -> Tensor:
    """Padded lengths: each divides into the chunks, the last one grows until this rank's tokens divide."""
    if share.size == share.multiple == 1:
        return lengths_N
    chunks = 2 * share.size if share.size > 1 else 1
    widths_N = (lengths_N + chunks - 1) // chunks * chunks
    while int(widths_N.sum()) // share.size % share.multiple:
        widths_N[-1] += chunks
    return widths_N


def _held(
    widths_N: Tensor, row_F: Tensor, positions_F: Tensor, share: Share
) -> tuple[Tensor | None, Tensor | None]:
    """The tokens this rank holds, and where each token lies in all ranks' tokens; None where it holds all."""
    if share.size == 1:
        return None, None
    step_F = (widths_N // (2 * share.size))[row_F]
    chunk_F = positions_F // step_F
    owner_F = torch.minimum(chunk_F, 2 * share.size - 1 - chunk_F)
    each_N = widths_N // share.size
    in_row_F = positions_F % step_F + step_F * (chunk_F >= share.size)
    local_F = (each_N.cumsum(0) - each_N)[row_F] + in_row_F
    (held_T,) = (owner_F == share.rank).nonzero(as_tuple=True)
    return held_T, owner_F * len(held_T) + local_F


def _thd(widths_N: Tensor, device: torch.device) -> PackedSeqParams:
    bounds = torch.cat([widths_N.new_zeros(1), widths_N.cumsum(0)]).to(device=device, dtype=torch.int32)
    longest = int(widths_N.max())
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


def _padded(widths_N: Tensor, positions_T: Tensor, parts: int) -> PackedRows:
    widths = widths_N.tolist()
    made = []
    for first, last in blocks(widths):
        keys = _span(widths, first, last)
        if parts == 1:
            made.append(Block(keys, keys, None))
            continue
        queries = _span([width // parts for width in widths], first, last)
        shape = (queries.num_rows, queries.width)
        mine_T = positions_T[queries.start : queries.end]
        padded = mine_T.new_zeros(shape[0] * shape[1])
        slots_T = torch.arange(len(mine_T)) if queries.slots_T is None else queries.slots_T
        made.append(Block(keys, queries, padded.index_copy(0, slots_T, mine_T).view(shape)))
    return PackedRows(qkv_format="rows", blocks=made, positions_T=positions_T, longest=max(widths))


def _span(widths: Sequence[int], first: int, last: int) -> Span:
    """Rows [first, last) of `widths`; they are padded to the widest."""
    start, sizes = sum(widths[:first]), widths[first:last]
    end, width = start + sum(sizes), max(sizes)
    slots = None
    if len(sizes) * width != end - start:
        slots = torch.cat([torch.arange(size) + n * width for n, size in enumerate(sizes)])
    return Span(start, end, len(sizes), width, slots)


def num_tokens(rows: Sequence[Row]) -> int:
    """Tokens a forward pass reads: a row's last is only predicted."""
    return sum(len(row.token_ids) - 1 for row in rows)
