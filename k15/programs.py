"""The nouns of judging programs: what a sandbox is asked and what it answers.

Plain frozen dataclasses that msgspec carries as JSON. Arguments and expected values of calls are value trees
(k15.engines.sandbox.inside.values.encode).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from k15.records import Status

Style = Literal["stdio", "calls", "asserts"]
Checker = Literal["tokens", "lines", "exact", "numbers"]


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
    entry_point: str = ""  # calls: the function's name
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
