"""Weight merging (METHOD.md §8)."""

from torch import Tensor


def average(long: Tensor, short: Tensor, *, weight: float) -> Tensor:
    """weight · long + (1 − weight) · short, computed in fp32, in the type of `long`.

    ValueError where shapes differ.
    """
    if long.shape != short.shape:
        raise ValueError(f"cannot merge tensors of shapes {tuple(long.shape)} and {tuple(short.shape)}")
    merged = long.float() * weight + short.float() * (1.0 - weight)
    return merged.to(long.dtype)
