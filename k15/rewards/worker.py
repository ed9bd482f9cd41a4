"""The process that compares answers: `python -m k15.rewards.worker`, started by k15.rewards.pool.

It loads math-verify once, then forks a child that does the work on standard input and output. Whoever waits
may kill the child at any time: another one is forked in milliseconds. Frames are 4 bytes of length and JSON.

    child: {"pid": 71}                              ready
    asked: {"reference": "1/2", "answer": "0.5"}    answer null: is the reference readable at all
    child: {"status": "correct", "reason": "", "last": false}
"""

import gc
import json
import logging
import os
import resource
import signal
import struct
import sys
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import N

from k15.records import Status, Verdict
from k15.rewards.equality import Unreadable, compare

HEADER = struct.Struct(">I")
MAX_REASON = 300
COMPARISONS = 2000  # of a child: sympy's caches grow
ORPHAN_S = 120  # after which a child that nobody waits for any more ends by itself
TOLERANCE = 1e-6  # relative, of numbers that are not rational
DONE, NEXT = 0, 3  # exit codes of a child: nobody asks any more; fork another one
# k15.rewards.units reads units; math-verify would take 5m for 5.
NORMALIZED = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
)
FORMULA = (LatexExtractionConfig(normalization_config=NORMALIZED),)
WARM_UP = (r"\frac{1}{2}", r"\sqrt{12}", "(x+1)^2", r"e^{\pi}", r"\sin(x)", r"\log_2 8", "x=1")


def equal(reference: str, answer: str) -> bool:
    """Whether two formulas are equal by math-verify; Unreadable where it cannot read the first."""
    wanted, stated = formula(reference), formula(answer)
    if wanted is None:
        raise Unreadable("math-verify reads no formula in it")
    if stated is None or not near(wanted, stated):
        return False
    return bool(verify([wanted], [stated], timeout_seconds=None, raise_on_error=True))


@lru_cache(256)
def formula(text: str) -> Any:
    """The sympy expression; None where there is none."""
    found = parse(f"${text}$", FORMULA, parsing_timeout=None)
    return next((item for item in found if not isinstance(item, str)), None)


def near(wanted: Any, stated: Any) -> bool:
    """False for two numbers further apart than their size allows: math-verify rounds to 6 places."""
    if not (getattr(wanted, "is_number", False) and getattr(stated, "is_number", False)):
        return True
    one, other = N(wanted), N(stated)
    return not (one.is_finite and other.is_finite) or bool(abs(one - other) <= TOLERANCE * abs(one))


def answered(request: dict[str, Any]) -> tuple[Verdict, bool]:
    """The verdict, and whether all went well; any fault of a foreign parser is a recorded third state."""
    reference, answer = request["reference"], request["answer"]
    try:
        return compare(reference, reference if answer is None else answer, equal), True
    except Exception as error:  # noqa: BLE001  see above
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        return Verdict(Status.UNJUDGED, reason), False


def serve(asked: int, answers: int, memory_bytes: int) -> int:
    """Answer until the input ends or a fresh child is due; the exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    send(answers, {"pid": os.getpid()})
    for number in range(1, COMPARISONS + 1):
        request = receive(asked)
        if request is None:
            return DONE
        signal.alarm(ORPHAN_S)
        verdict, sound = answered(request)
        signal.alarm(0)
        last = number == COMPARISONS or not sound
        reply = {"status": str(verdict.status), "reason": verdict.reason[:MAX_REASON], "last": last}
        send(answers, reply)
        if last:
            break
    return NEXT


def send(descriptor: int, message: dict[str, Any]) -> None:
    """One frame, whole: it is shorter than what a pipe takes at once."""
    body = json.dumps(message).encode()
    os.write(descriptor, HEADER.pack(len(body)) + body)


def receive(descriptor: int) -> dict[str, Any] | None:
    """The next frame; None at the end of the input."""
    header = exactly(descriptor, HEADER.size)
    if header is None:
        return None
    body = exactly(descriptor, HEADER.unpack(header)[0])
    return None if body is None else dict(json.loads(body))


def exactly(descriptor: int, size: int) -> bytes | None:
    """`size` bytes; None where the input ends before."""
    data = b""
    while len(data) < size:
        piece = os.read(descriptor, size - len(data))
        if not piece:
            return None
        data += piece
    return data


def drain(descriptor: int) -> None:
    """Drop what a killed child left unread."""
    os.set_blocking(descriptor, False)
    try:
        while os.read(descriptor, 1 << 16):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(descriptor, True)


def main() -> None:
    """Keep one child at work until nobody asks any more."""
    logging.disable(logging.WARNING)  # math-verify warns that it keeps no time itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's: it closes the input
    asked, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    for text in WARM_UP:
        equal(text, text)
    gc.freeze()
    while True:
        child = os.fork()
        if child == 0:
            os._exit(serve(asked, answers, int(sys.argv[1])))
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == DONE:
            return
        drain(asked)


if __name__ == "__main__":
    main()
