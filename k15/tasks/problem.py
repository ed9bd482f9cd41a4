"""A problem with its worked steps, from which demonstrations of every style are written."""

from dataclasses import dataclass

from k15.rewards.answer import MARK
from k15.rewards.program import fenced


@dataclass(frozen=True, slots=True)
class Step:
    """One line of work, `left = value`, and the line that checks it: `value + shift` must give `target`."""

    left: str
    value: int
    shift: int

    @property
    def target(self) -> int:
        """What the check of a right value gives."""
        return self.value + self.shift

    def line(self, value: int | None = None) -> str:
        """The line of work, with another value where a slip is wanted."""
        return f"{self.left} = {self.value if value is None else value}"

    def check(self, value: int | None = None) -> str:
        """The line that checks a value; a wrong value does not give the target."""
        stated = self.value if value is None else value
        sign = "+" if self.shift >= 0 else "-"
        return f"{stated} {sign} {abs(self.shift)} = {stated + self.shift}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its reference answer, and a way to it: worked steps, or a solution's text."""

    question: str
    answer: str
    task: str
    difficulty: float  # 0 (easy) to 1 (hard)
    reward: str  # name in k15.rewards.REWARDS
    metadata: str = "{}"  # JSON
    steps: tuple[Step, ...] = ()
    solution: str = ""
    program: str = ""  # Python that passes; of reward "code"

    @property
    def stated(self) -> str:
        """The answer as a response states it; ValueError where none is published."""
        if self.reward == "code":
            if not self.program:
                raise ValueError(
                    f"task {self.task} has tests, but no program to show; leave demonstrations out"
                )
            return fenced(self.program, "python")
        return MARK + self.answer
