"""The bytes of a policy: tensors at the offsets of a layout, and two checksummed slots that carry them."""

import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from math import prod

import torch

from k15.records import TensorSpec, WeightTicket

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Named = Iterable[tuple[str, torch.Tensor]]  # Hugging Face name, value

HEADER_BYTES = 4096  # a page, so that payloads stay aligned
NUM_SLOTS = 2  # a torn write must leave the newest whole version in place
_HEADER = struct.Struct("<8sQQI")  # magic, version, bytes, crc32
_MAGIC = b"K15SLOT1"


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
    """Copy every tensor to its place. ValueError where names, shapes or dtypes are not the layout's.

    TimeoutError once `time.monotonic()` passes `end_s`.
    """
    places = dict(views(buffer, layout))
    for name, tensor in tensors:
        place = places.pop(name, None)
        if place is None or place.shape != tensor.shape or place.dtype != tensor.dtype:
            raise ValueError(f"{name} {tuple(tensor.shape)} {tensor.dtype} is not in the weight layout")
        place.copy_(tensor.detach())
        if time.monotonic() > end_s:
            raise TimeoutError(f"packing weights passed its deadline at {name}")
    if places:
        raise ValueError(f"the trainer gave no values for {sorted(places)[:3]} ({len(places)} tensors)")


class SlotBuffer:
    """Two slots in one buffer, each a header page and a payload; the header is valid once that is whole."""

    def __init__(self, buffer: memoryview, payload_bytes: int) -> None:
        self.payload_bytes = payload_bytes
        self._buffer = buffer

    @staticmethod
    def stride(payload_bytes: int) -> int:
        """Bytes from one slot to the next."""
        return HEADER_BYTES + -(-payload_bytes // HEADER_BYTES) * HEADER_BYTES

    @classmethod
    def size(cls, payload_bytes: int) -> int:
        """Bytes of the whole buffer."""
        return NUM_SLOTS * cls.stride(payload_bytes)

    def payload(self, slot: int) -> memoryview:
        """The bytes of one slot's weights."""
        start = slot * self.stride(self.payload_bytes) + HEADER_BYTES
        return self._buffer[start : start + self.payload_bytes]

    def invalidate(self, slot: int) -> None:
        """From now on `slot` holds nothing; call it before its payload is touched."""
        _HEADER.pack_into(self._buffer, slot * self.stride(self.payload_bytes), b"\0" * 8, 0, 0, 0)

    def seal(self, ticket: WeightTicket) -> None:
        """Declare the payload of `ticket.slot` whole."""
        start = ticket.slot * self.stride(self.payload_bytes)
        self._buffer[start : start + _HEADER.size] = header_bytes(ticket)

    def held(self, slot: int) -> WeightTicket | None:
        """The ticket of what a slot holds; None where nothing whole lies there."""
        header = _HEADER.unpack_from(self._buffer, slot * self.stride(self.payload_bytes))
        magic, version, num_bytes, checksum = header
        return WeightTicket(version, checksum, num_bytes, slot) if magic == _MAGIC else None

    def free_slot(self) -> int:
        """The slot to write next: an invalid one, or else the one of the older version."""
        held = [self.held(slot) for slot in range(NUM_SLOTS)]
        ages = [-1 if ticket is None else ticket.version for ticket in held]
        return ages.index(min(ages))

    def take(self, ticket: WeightTicket) -> memoryview:
        """The verified payload of `ticket`; ConnectionError where header, size or checksum differ."""
        if ticket.slot not in range(NUM_SLOTS):
            raise ConnectionError(f"weights of version {ticket.version}: there is no slot {ticket.slot}")
        if self.held(ticket.slot) != ticket or ticket.num_bytes != self.payload_bytes:
            held = self.held(ticket.slot)
            raise ConnectionError(f"slot {ticket.slot} holds {held}, not {ticket}: torn or never sent")
        payload = self.payload(ticket.slot)
        checksum = zlib.crc32(payload)
        if checksum != ticket.checksum:
            raise ConnectionError(
                f"weights of version {ticket.version} are corrupt: "
                f"crc32 {checksum:08x}, expected {ticket.checksum:08x}"
            )
        return payload


def header_bytes(ticket: WeightTicket) -> bytes:
    """The valid header of a slot that holds `ticket`."""
    return _HEADER.pack(_MAGIC, ticket.version, ticket.num_bytes, ticket.checksum)


def invalid_header() -> bytes:
    """The header of a slot that holds nothing."""
    return bytes(_HEADER.size)
