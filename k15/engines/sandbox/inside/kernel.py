"""The few calls of Linux that Python 3.11 does not wrap."""

import ctypes
import os

NEWNS, NEWIPC, NEWPID = 0x20000, 0x8000000, 0x20000000
NOSUID, NODEV, NOEXEC = 2, 4, 8
PR_CAPBSET_DROP, LAST_CAPABILITY = 24, 40

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """A libc function that returns 0; OSError with its name otherwise."""
    if getattr(_libc, name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def mount(kind: str, target: str, flags: int, options: str) -> None:
    """Mount a new file system of `kind` on `target`."""
    call("mount", kind.encode(), target.encode(), kind.encode(), flags, options.encode())


def drop_bounding_set() -> None:
    """Give up every capability for good, also across execve."""
    for capability in range(LAST_CAPABILITY + 1):
        call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
