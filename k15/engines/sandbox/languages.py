"""The languages of the sandbox: one row each."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Language:
    """How a program of a language is made ready and run, inside a slot."""

    file: str  # what its source is called
    styles: tuple[str, ...]
    program: str  # the host's, shown in slots; without it the language is missing
    remedy: str
    compile: tuple[str, ...] = ()  # writes `binary`; empty: the fork server runs the source itself
    binary: str = ""

    @property
    def available(self) -> bool:
        """Whether slots on this machine can run it."""
        return Path(self.program).exists()


LANGUAGES = {
    "python": Language(
        file="main.py",
        styles=("stdio", "calls", "asserts"),
        program="/usr/bin/python3",
        remedy="apt-get install -y --no-install-recommends python3",
    ),
    "cpp": Language(
        file="main.cpp",
        styles=("stdio",),
        program="/usr/bin/g++",
        remedy="apt-get install -y --no-install-recommends g++",
        compile=("/usr/bin/g++", "-std=c++17", "-O2", "-pipe", "main.cpp", "-o", "main"),
        binary="main",
    ),
}
