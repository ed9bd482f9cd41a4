"""Host memory that a GPU copies to and from without a detour; on a machine without one nothing happens."""

import ctypes

import torch


def pin(buffer: memoryview) -> None:
    """Lock `buffer`'s pages and make them known to CUDA; RuntimeError where the driver refuses."""
    if torch.cuda.is_available():
        code = torch.cuda.cudart().cudaHostRegister(address(buffer), len(buffer), 0)
        _checked(int(code), f"pinning {len(buffer) / 1e6:.0f} MB of host memory")


def unpin(buffer: memoryview) -> None:
    """Undo `pin`."""
    if torch.cuda.is_available():
        _checked(int(torch.cuda.cudart().cudaHostUnregister(address(buffer))), "unpinning host memory")


def address(buffer: memoryview) -> int:
    """Where a writable buffer begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _checked(code: int, what: str) -> None:
    if code:
        raise RuntimeError(f"{what} failed with CUDA code {code}; lower the model's size or raise ulimit -l")
