"""The bytes of a policy: tensors at the offsets of a layout, in a slot whose header vouches for them.

A slot holds one version. Its writer makes the header invalid, writes the payload, and writes the header last;
a reader compares header and checksum with the ticket it was given. So a torn write is found, whoever died,
and the weights that a sampler serves stay those it has loaded.
"""

import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

import torch

from k15.records import TensorSpec, WeightSource, WeightTicket

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Named = Iterable[tuple[str, torch.Tensor]]  # Hugging Face name, value

HEADER_BYTES = 4096  # a page, so that payloads stay aligned
BUCKET_BYTES = 64 << 20  # moved and checked at a time; between two of them deadlines are looked at
_HEADER = struct.Struct("<8sQQI")  # magic, version, bytes, checksum
_MAGIC = b"K15SLOT2"


def tensor_bytes(spec: TensorSpec) -> int:
    """Bytes of one tensor."""
    return prod(spec.shape) * DTYPES[spec.dtype].itemsize


def layout_bytes(layout: Sequence[TensorSpec]) -> int:
    """Bytes of a buffer for `layout`; ValueError where tensors overlap, are misaligned or share a name."""
    end = 0
    names: set[str] = set()
    for spec in sorted(layout, key=lambda spec: spec.offset):
        if spec.dtype not in DTYPES:
            raise ValueError(f"layout: {spec.name}: dtype {spec.dtype!r}; use one of {sorted(DTYPES)}")
        if spec.name in names or spec.offset < end or spec.offset % DTYPES[spec.dtype].itemsize:
            raise ValueError(f"layout: {spec.name} is named twice, overlaps or is misaligned")
        names.add(spec.name)
        end = spec.offset + tensor_bytes(spec)
    if not end:
        raise ValueError("layout: no tensors")
    return end


def views(buffer: memoryview, layout: Sequence[TensorSpec]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor of `layout` as a view of `buffer`, without copying."""
    flat = torch.frombuffer(buffer, dtype=torch.uint8)
    for spec in layout:
        part = flat[spec.offset : spec.offset + tensor_bytes(spec)]
        yield spec.name, part.view(DTYPES[spec.dtype]).view(spec.shape)


def pack(tensors: Named, layout: Sequence[TensorSpec], buffer: memoryview, *, end_s: float) -> None:
    """Copy every tensor to its place, one at a time as they come; no second copy of the model is made.

    ValueError where names, shapes or dtypes are not the layout's. TimeoutError once `time.monotonic()` passes
    `end_s`. From a GPU the copies run behind each other; `buffer` should be pinned (k15.engines.pinned).
    """
    places = dict(views(buffer, layout))
    on_gpu = False
    for name, tensor in tensors:
        place = places.pop(name, None)
        if place is None or place.shape != tensor.shape or place.dtype != tensor.dtype:
            raise ValueError(f"{name} {tuple(tensor.shape)} {tensor.dtype} is not in the weight layout")
        on_gpu = on_gpu or tensor.is_cuda
        place.copy_(tensor.detach(), non_blocking=True)
        if time.monotonic() > end_s:
            raise TimeoutError(f"packing weights passed its deadline at {name}")
    if places:
        raise ValueError(f"the trainer gave no values for {sorted(places)[:3]} ({len(places)} tensors)")
    if on_gpu:
        torch.cuda.synchronize()


def buckets(num_bytes: int) -> list[tuple[int, int]]:
    """(offset, size) of each bucket of a payload."""
    return [(start, min(BUCKET_BYTES, num_bytes - start)) for start in range(0, num_bytes, BUCKET_BYTES)]


def checksum(payload: memoryview) -> int:
    """The CRC-32 of the little-endian CRC-32s of the payload's buckets; they are worked out side by side."""
    spans = buckets(len(payload))
    with ThreadPoolExecutor(min(len(spans), os.cpu_count() or 1)) as threads:
        parts = threads.map(lambda span: zlib.crc32(payload[span[0] : span[0] + span[1]]), spans)
        return zlib.crc32(b"".join(struct.pack("<I", part) for part in parts))


def header_bytes(ticket: WeightTicket) -> bytes:
    """The header of a slot that holds `ticket`'s weights."""
    return _HEADER.pack(_MAGIC, ticket.version, ticket.num_bytes, ticket.checksum)


class Slot:
    """A header page and a payload in one buffer."""

    def __init__(self, buffer: memoryview, payload_bytes: int) -> None:
        self._header = buffer[: _HEADER.size]
        self.payload = buffer[HEADER_BYTES : HEADER_BYTES + payload_bytes]

    @staticmethod
    def size(payload_bytes: int) -> int:
        """Bytes of the whole buffer."""
        return HEADER_BYTES + -(-payload_bytes // HEADER_BYTES) * HEADER_BYTES

    def invalidate(self) -> None:
        """From now on the slot holds nothing; call it before its payload is touched."""
        self._header[:] = bytes(_HEADER.size)

    def seal(self, ticket: WeightTicket) -> None:
        """Declare the payload whole."""
        self._header[:] = header_bytes(ticket)

    def holds(self, ticket: WeightTicket) -> bool:
        """Whether the header is that of `ticket`'s weights."""
        return bytes(self._header) == header_bytes(ticket)

    def verify(self, ticket: WeightTicket) -> None:
        """ConnectionError where the payload's checksum is not the ticket's."""
        found = checksum(self.payload)
        if found != ticket.checksum:
            raise ConnectionError(
                f"weights of version {ticket.version} are corrupt: "
                f"checksum {found:08x}, expected {ticket.checksum:08x}"
            )


def refuse_unlike(ticket: WeightTicket, *, transport: str, payload_bytes: int) -> None:
    """ValueError where a receiver of `transport` for `payload_bytes` cannot take `ticket`."""
    if ticket.source.transport != transport:
        theirs = ticket.source.transport
        raise ValueError(f"transport: the trainer has {theirs!r}, the sampler {transport!r}")
    if ticket.num_bytes != payload_bytes:
        where = ticket.source.place
        raise ValueError(f"{where} holds {ticket.num_bytes} bytes, the layout has {payload_bytes}")


def refuse_older(ticket: WeightTicket, *, version: int, checksum: int | None) -> None:
    """ValueError where who serves `version` with `checksum` (None: not known) is to go back to `ticket`."""
    if ticket.version < version:
        raise ValueError(
            f"version {ticket.version} of the weights goes back: {version} is served; a trainer that starts "
            f"again needs samplers that start with it"
        )
    if ticket.version == version and checksum not in (None, ticket.checksum):
        raise ValueError(f"version {version} of the weights is served, and these are others of that name")


def torn(ticket: WeightTicket) -> ConnectionError:
    """What a reader says of a slot whose header is not the ticket's."""
    where = ticket.source.place
    return ConnectionError(f"{where} does not hold version {ticket.version}: torn, replaced or never sent")


@dataclass
class Seconds:
    """What the last version cost one end of a channel."""

    move: float = 0.0
    checksum: float = 0.0


class Staging:
    """The sending end's slot: one version at a time, converted once for every receiver."""

    def __init__(self, buffer: memoryview, layout: Sequence[TensorSpec], source: WeightSource) -> None:
        self._layout, self._source = tuple(layout), source
        self._slot = Slot(buffer, layout_bytes(layout))
        self._newest = -1
        self.seconds = Seconds()

    def write(self, tensors: Named, version: int, *, deadline_s: float) -> WeightTicket:
        """Replace the slot's version by a newer one; its header goes last.

        ValueError: the version is not newer than the last one written. TimeoutError past the deadline. After
        an error the slot holds nothing, and the version may be written again.
        """
        if version <= self._newest:
            raise ValueError(f"version {version} of the weights goes back: {self._newest} was sent already")
        started = time.monotonic()
        end_s = started + deadline_s
        self._slot.invalidate()
        pack(tensors, self._layout, self._slot.payload, end_s=end_s)
        packed = time.monotonic()
        value = checksum(self._slot.payload)
        self.seconds = Seconds(packed - started, time.monotonic() - packed)
        if time.monotonic() > end_s:
            raise TimeoutError(f"version {version} was packed and summed up in more than {deadline_s} s")
        ticket = WeightTicket(version, value, len(self._slot.payload), self._source)
        self._slot.seal(ticket)
        self._newest = version
        return ticket
