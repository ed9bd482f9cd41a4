"""The weight channels by transport."""

from collections.abc import Sequence

from k15.engines.shared_memory import SharedMemoryReceiver, SharedMemorySender
from k15.ports import WeightReceiver, WeightSender
from k15.records import TensorSpec


def open_receiver(transport: str, payload_bytes: int, *, host: str, timeout_s: int) -> WeightReceiver:
    """The sampler's end; ValueError for an unknown transport, or for rdma without a device."""
    if transport == "shared_memory":
        return SharedMemoryReceiver(payload_bytes)
    # Mooncake needs system libraries that shared memory does not.
    from k15.engines.mooncake.transfer import MooncakeReceiver

    return MooncakeReceiver(payload_bytes, transport=transport, host=host, timeout_s=timeout_s)


def open_sender(transport: str, layout: Sequence[TensorSpec], *, host: str, timeout_s: int) -> WeightSender:
    """The trainer's end; ValueError for an unknown transport, or for rdma without a device."""
    if transport == "shared_memory":
        return SharedMemorySender(layout)
    from k15.engines.mooncake.transfer import MooncakeSender

    return MooncakeSender(layout, transport=transport, host=host, timeout_s=timeout_s)
