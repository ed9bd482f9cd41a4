"""Two hosts on one machine: two network namespaces that share nothing but a cable."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

TRAINER_HOST, SAMPLER_HOST = "10.215.4.1", "10.215.4.2"  # seen inside the two namespaces only


@dataclass(frozen=True)
class TwoHosts:
    """How to start a process on each of them."""

    trainer: tuple[str, ...]
    sampler: tuple[str, ...]

    def link(self, state: str) -> None:
        """Pull the cable out of the sampler's host ("down"), or put it back ("up")."""
        ip(*self.sampler, "ip", "link", "set", "cable", state)


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """Both hosts, connected; PermissionError where this user may make none.

    A namespace is held by a process that ends with this one, however it does, and goes with its last
    process; so nothing is left over.
    """
    with ExitStack() as stack:
        inside = [stack.enter_context(namespace()) for _ in range(2)]
        (trainer, trainer_pid), (sampler, sampler_pid) = inside
        ends = ("cable", "netns", trainer_pid), ("cable", "netns", sampler_pid)
        ip("ip", "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1])
        for enter, address in ((trainer, TRAINER_HOST), (sampler, SAMPLER_HOST)):
            ip(*enter, "ip", "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip(*enter, "ip", "link", "set", device, "up")
        yield TwoHosts(trainer, sampler)


@contextmanager
def namespace() -> Iterator[tuple[tuple[str, ...], str]]:
    """A network namespace: the command that enters it, and the process that holds it."""
    if os.geteuid() != 0:
        raise PermissionError("a network namespace takes root")
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo made; exec cat"],  # until its standard input closes
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stderr is not None
        if holder.stdout.readline() != "made\n":
            raise PermissionError(f"no network namespace: {holder.stderr.read().strip()}")
        yield ("nsenter", f"--net=/proc/{holder.pid}/ns/net"), str(holder.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            holder.kill()
        holder.communicate()


def ip(*command: str) -> None:
    """Run a command of iproute2; PermissionError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(f"{' '.join(command)}: {done.stderr.strip()}")
