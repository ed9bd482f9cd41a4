"""The nouns of judging programs: what a sandbox is asked and what it answers.

Plain frozen dataclasses that msgspec carries as JSON. Arguments and expected values of calls are value trees
(k15.values.encode).
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import msgspec

from k15.records import Status

Style = Literal["stdio", "calls", "asserts"]
Checker = Literal["tokens", "lines", "exact", "numbers"]
Comparison = Literal["equal", "members", "presence", "any"]
FUTURE = re.compile(r"^from __future__ import .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one case. CPU time is what a solution is judged by; the wall clock ends what sleeps."""

    cpu_s: float = 2.0
    wall_s: float = 10.0
    memory_mb: int = 256
    disk_mb: int = 16
    output_kb: int = 1024
    processes: int = 32


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the solution's function; without `expected` its value is returned, not checked."""

    arguments: Any  # the tree of a tuple
    expected: Any = None
    checked: bool = True
    # members: equal as sets; presence: a truth value, or whether there is a value; any: one of those expected
    comparison: Comparison = "equal"


@dataclass(frozen=True, slots=True)
class Case:
    """One test in a world of its own. Which fields count depends on the job's style."""

    stdin: str = ""  # stdio
    expected: str | None = None  # stdio; None: the output is returned, not checked
    calls: tuple[Call, ...] = ()  # calls
    tests: str = ""  # asserts: Python that uses the solution's functions by name


@dataclass(frozen=True, slots=True)
class Job:
    """A program with its tests."""

    language: str
    source: str
    style: Style
    cases: tuple[Case, ...]
    entry_point: str = ""  # calls: the function's name; asserts: one that they call though Python has one too
    checker: Checker = "tokens"
    tolerance: float = 0.0  # calls: absolute, of floats; stdio with "numbers": absolute or relative
    limits: Limits = field(default_factory=Limits)
    deadline_s: float = 60.0  # for the whole job, waiting included
    stop_at_first: bool = True  # later cases are not run once one is wrong


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What one case showed."""

    status: Status
    reason: str = ""
    output: str = ""  # standard output, or the JSON list of value trees, where nothing was expected
    cpu_s: float = 0.0
    wall_s: float = 0.0
    memory_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class JobResult:
    """Correct where every case is, wrong where one is; else unjudged. Cases not run are absent."""

    status: Status
    reason: str
    cases: tuple[CaseResult, ...]
    isolation: str  # "crun" | "bubblewrap"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Suite:
    """What a program must pass: the reference of a prompt whose reward is "code"."""

    language: str
    style: Style
    cases: tuple[Case, ...]
    entry_point: str = ""
    checker: Checker = "tokens"
    tolerance: float = 0.0
    limits: Limits = field(default_factory=Limits)
    preamble: str = ""  # source that the question gives, and that a response need not repeat

    def job(self, program: str, *, deadline_s: float) -> Job:
        """The program with its tests."""
        return Job(
            self.language,
            with_preamble(self.preamble, program),
            self.style,
            self.cases,
            self.entry_point,
            self.checker,
            self.tolerance,
            self.limits,
            deadline_s,
        )

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """ValueError names the field that is missing or wrong."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(f"no suite of tests: {error}") from None


def with_preamble(preamble: str, program: str) -> str:
    """Both in one source; what Python wants at the head of a program stays there."""
    if not preamble:
        return program
    return "\n".join([*FUTURE.findall(program), preamble, FUTURE.sub("", program)])
