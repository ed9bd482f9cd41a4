"""What a GPU does in a second, from its maker's data sheet."""

from dataclasses import dataclass

GIGA, TERA = 10**9, 10**12
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU and its links; bandwidths are per GPU and direction."""

    flops: float  # dense bf16 per second
    memory_bandwidth: float  # bytes per second
    node_bandwidth: float  # to the other GPUs of its node
    network_bandwidth: float  # to other nodes


# NVIDIA's data sheets of the SXM parts (dense bf16, HBM, NVLink halved to one direction); the network is the
# one InfiniBand port per GPU of the DGX system of the same name.
GPUS = {
    "a100": Gpu(312 * TERA, 2.0 * TERA, 300 * GIGA, 25 * GIGA),
    "h100": Gpu(989 * TERA, 3.35 * TERA, 450 * GIGA, 50 * GIGA),
    "h200": Gpu(989 * TERA, 4.8 * TERA, 450 * GIGA, 50 * GIGA),
    "b200": Gpu(2250 * TERA, 7.7 * TERA, 900 * GIGA, 50 * GIGA),
}
GPUS_IN_NODE = 8
# Of the peak that matrix products and attention reach by themselves. Whole steps of Megatron-LM, with their
# communication, are reported at 41 to 48 % of an H100 (github.com/NVIDIA/Megatron-LM, README).
EFFICIENCY = 0.55
LINK_EFFICIENCY = 0.75  # of a link's bandwidth that large collectives reach
