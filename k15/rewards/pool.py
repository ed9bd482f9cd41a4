"""Answers compared in processes that may be killed: any thread may ask, none waits for a hostile one long."""

import contextlib
import json
import os
import queue
import select
import signal
import struct
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Self

from k15.records import Status, Verdict

CPU_S = 2.0  # of one comparison
WALL_S = 60.0  # of one comparison: a busy machine is no reason to give up, a stopped process is
START_S = 120.0  # loading sympy on a busy machine
LOOK_S = 0.1
MEMORY_BYTES = 768 << 20  # of a process's address space
MAX_REQUEST_BYTES = 1 << 15  # less than what a pipe holds: writing never waits
HEADER = struct.Struct(">I")


class ComparisonPool:
    """ports.Equivalence by `size` processes, which are started at once and loaded when first needed."""

    def __init__(self, size: int, *, cpu_s: float = CPU_S, memory_bytes: int = MEMORY_BYTES) -> None:
        self._workers = [_Worker(cpu_s, memory_bytes) for _ in range(size)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def compare(self, reference: str, answer: str) -> Verdict:
        """Correct or wrong; unjudged where the comparison took too much, or the reference cannot be read."""
        return self._ask({"reference": reference, "answer": answer})

    def refusal(self, reference: str) -> str:
        """Why no answer could be compared with `reference`; empty where one can."""
        verdict = self._ask({"reference": reference, "answer": None})
        return "" if verdict.status is Status.CORRECT else verdict.reason or "it does not equal itself"

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> Verdict:
        body = json.dumps(request).encode()
        if len(body) > MAX_REQUEST_BYTES:
            return Verdict(Status.UNJUDGED, f"more than {MAX_REQUEST_BYTES} bytes to compare")
        worker = self._idle.get()
        try:
            return worker.ask(HEADER.pack(len(body)) + body)
        finally:
            self._idle.put(worker)


class _Worker:
    """One k15.rewards.worker and its child; one thread at a time."""

    def __init__(self, cpu_s: float, memory_bytes: int) -> None:
        self._cpu_s, self._memory_bytes = cpu_s, memory_bytes
        self._child = 0  # none that is known to wait for a request
        self._process = self._started()

    def ask(self, frame: bytes) -> Verdict:
        try:
            if not self._child:
                self._await_child()
            started_s = _cpu_s(self._child)
            os.write(self._asked, frame)
            reply = self._reply(started_s)
        except (EOFError, BrokenPipeError):
            self.stop()
            self._child, self._process = 0, self._started()
            return Verdict(Status.UNJUDGED, "the comparing process was ended")
        if reply is None:
            return Verdict(Status.UNJUDGED, f"timeout: more than {self._cpu_s:g} s of CPU, or it stood still")
        if "pid" in reply:
            self._child = reply["pid"]
            return Verdict(Status.UNJUDGED, "the comparing process crashed")
        if reply["last"]:
            self._child = 0
        return Verdict(Status(reply["status"]), reply["reason"])

    def stop(self) -> None:
        self._process.kill()  # it holds nothing; its child ends with its input, or is ended here
        self._process.wait()
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            pipe.close()

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "k15.rewards.worker", str(self._memory_bytes)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    @property
    def _asked(self) -> int:
        assert self._process.stdin
        return self._process.stdin.fileno()

    @property
    def _answers(self) -> int:
        assert self._process.stdout
        return self._process.stdout.fileno()

    def _await_child(self) -> None:
        end_s = time.monotonic() + START_S
        while not self._child:
            if not self._readable(end_s - time.monotonic()):
                raise EOFError(f"no child after {START_S:g} s")
            self._child = self._frame().get("pid", 0)  # what a killed one had still answered is passed over

    def _reply(self, started_s: float) -> dict[str, Any] | None:
        """The child's answer; None where it was killed for taking too long."""
        end_s = time.monotonic() + WALL_S
        while not self._readable(LOOK_S):
            if _cpu_s(self._child) - started_s > self._cpu_s or time.monotonic() > end_s:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._child, signal.SIGKILL)
                self._child = 0
                return None
        return self._frame()

    def _readable(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))

    def _frame(self) -> dict[str, Any]:
        (size,) = HEADER.unpack(self._exactly(HEADER.size))
        return dict(json.loads(self._exactly(size)))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = os.read(self._answers, size - len(data))
            if not piece:
                raise EOFError("the comparing process was ended")
            data += piece
        return data


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process; 0 where it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of a process, man clock_getres(2)
    except OSError:
        return 0.0
