"""One world of a case: fresh process, mount and IPC namespaces, and in them an unprivileged process.

Two processes: the first of the new namespace is ours (it reads the program, makes the world, waits, reports);
its child becomes nobody under the filter and runs the program. When the first ends, the kernel ends the rest.
"""

import json
import math
import os
import resource
import socket
from dataclasses import dataclass
from typing import Any

from k15.engines.sandbox.inside import python, seccomp
from k15.engines.sandbox.inside.kernel import (
    NEWIPC,
    NEWNS,
    NEWPID,
    NODEV,
    NOEXEC,
    NOSUID,
    call,
    drop_bounding_set,
    mount,
)

FIRST_USER = 1000
PR_SET_DUMPABLE = 4
BROKEN = 125  # exit code of a world that could not be made
NOT_STARTED = 127  # as a shell says it
TELL, CONFINED = 4, b"{}\n"  # the descriptor and the word by which a program's process says it is confined
MEMORY_BESIDE_BYTES = 64 << 20  # address space of the interpreter itself
ENVIRONMENT = {"PATH": "/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}
OWN = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
WITH_USERS = sum(int(line.split()[2]) for line in open("/proc/self/uid_map")) > 1  # noqa: SIM115


@dataclass
class World:
    """A world from outside: the pid of its first process and what can be read of it."""

    pid: int
    streams: dict[int, int]  # descriptor → 0 report, 1 output, 2 errors, 3 answers


def open_world(spec: dict[str, Any], control: int, channel: socket.socket | None, number: int) -> World:
    """Start a world; it reads its own bytes from `control`, so that none of them stay in this process.

    Returns once they are read. RuntimeError where that failed: then `control` cannot be trusted any more.
    """
    report, tell = os.pipe()
    pipes = {name: os.pipe() for name in ("output", "errors", "answers")}
    call("setns", OWN, NEWPID)
    call("unshare", NEWPID)
    pid = os.fork()
    if pid == 0:
        try:
            _first_process(spec, control, channel, tell, [pipes[name][1] for name in pipes], number)
        except BaseException as error:  # noqa: BLE001  told to the service as what it is
            os.write(tell, f"{type(error).__name__}: {error}".encode())
        os._exit(BROKEN)
    os.close(tell)
    for _, end in pipes.values():
        os.close(end)
    if os.read(report, 1) != b"r":
        raise RuntimeError("a world ended before it had read its program")
    ends = [report, *(pipe[0] for pipe in pipes.values())]
    return World(pid, dict(zip(ends, range(4), strict=True)))


def _first_process(
    spec: dict[str, Any],
    control: int,
    channel: socket.socket | None,
    tell: int,
    outputs: list[int],
    number: int,
) -> None:
    body = json.loads(_exactly(control, spec["num_body_bytes"]))
    feed_bytes = _exactly(control, spec["num_feed_bytes"])
    os.write(tell, b"r")
    answers = channel.fileno() if channel else outputs[2]
    _close_all_but({tell, answers, OWN, *outputs[:2]})
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    call("unshare", NEWNS | NEWIPC)
    mount("tmpfs", "/tmp", NOSUID | NODEV, f"size={spec['disk_bytes']},mode=1777,nr_inodes=4096")
    mount("proc", "/proc", NOSUID | NODEV | NOEXEC, "hidepid=2")
    os.chdir("/tmp")
    for name, text in body["files"].items():
        with open(name, "wb") as file:
            file.write(text.encode("latin-1"))
        os.chmod(name, 0o755)
    with open(".feed", "wb") as file:
        file.write(feed_bytes)
    feed = os.open(".feed", os.O_RDONLY)
    os.unlink(".feed")
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)  # not even one's own user may look into this process
    pid = os.fork()
    if pid == 0:
        try:
            _confine(spec, [feed, *outputs[:2], answers, tell], number)
        except BaseException as error:  # noqa: BLE001  as above
            os.write(TELL, f"{type(error).__name__}: {error}".encode())
            os._exit(BROKEN)
        os.write(TELL, CONFINED)
        os.close(TELL)
        try:
            code = _run(spec["mode"], body)
        except BaseException as error:  # noqa: BLE001  a program that cannot be started is the program's fault
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            code = NOT_STARTED
        os._exit(code)
    _close_all_but({tell, outputs[2], 0} if spec["keep"] else {tell, 0})
    _report(pid, tell, spec, outputs[2])


def _report(pid: int, tell: int, spec: dict[str, Any], answers: int) -> None:
    """Wait for the program, whatever else ends meanwhile; say how it ended, hand over the file to keep."""
    while True:
        ended, status, usage = os.wait4(-1, 0)
        if ended == pid:
            break
    if spec["keep"] and status == 0:
        descriptor = os.open(spec["keep"], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        while chunk := os.read(descriptor, 1 << 16):
            os.write(answers, chunk)
    report = {
        "code": os.waitstatus_to_exitcode(status),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "memory_bytes": usage.ru_maxrss << 10,
    }
    os.write(tell, json.dumps(report).encode())
    os._exit(0)


def _confine(spec: dict[str, Any], descriptors: list[int], number: int) -> None:
    """Become nobody, with the descriptors 0 to TELL, under limits that only fall."""
    os.setsid()
    high = [os.dup2(descriptor, 100 + index) for index, descriptor in enumerate(descriptors)]
    for target, descriptor in enumerate(high):
        os.dup2(descriptor, target)
    os.closerange(TELL + 1, 1024)
    cpu_s = math.ceil(spec["cpu_s"])
    memory = spec["memory_bytes"] + MEMORY_BESIDE_BYTES
    stack = min(spec["memory_bytes"], 256 << 20)
    for kind, most in {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_STACK: stack,
        resource.RLIMIT_FSIZE: spec["disk_bytes"],
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NPROC: spec["processes"],
    }.items():
        resource.setrlimit(kind, (most, most))
    drop_bounding_set()
    if WITH_USERS:
        user = FIRST_USER + number
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    seccomp.install()


def _run(mode: str, body: dict[str, Any]) -> int:
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    if mode == "exec":
        os.close(3)
        os.execve(body["command"][0], body["command"], ENVIRONMENT)
    source, function = body["source"], body.get("function", "")
    body.clear()
    if mode == "tests":
        return python.tests(source, function)
    return {"script": python.script, "serve": python.serve}[mode](source)


def _close_all_but(kept: set[int]) -> None:
    low = 0
    for descriptor in sorted(kept):
        if low < descriptor:  # closerange(0, 0) closes all
            os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, 1024)


def _exactly(descriptor: int, num_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < num_bytes:
        chunk = os.read(descriptor, min(1 << 20, num_bytes - len(data)))
        if not chunk:
            raise EOFError("the service is gone")
        data += chunk
    return bytes(data)
