"""Which samples of a problem state the same answer, by the grader that judges them."""

from collections.abc import Sequence
from dataclasses import replace

from k15.ports import Reward
from k15.records import Prompt, Status
from k15.rewards import statement

RIGHT = 0


def answer_classes(
    prompt: Prompt, responses: Sequence[str], statuses: Sequence[Status], judge: Reward
) -> list[int | None]:
    """A number for each response, the same for equal answers; None where it states none or is unjudged.

    Correct ones are RIGHT: they equal the reference. A wrong one joins the first that the grader, with that
    as the reference, accepts it for; a wrong program only its own copies.
    """
    known: list[str] = []
    classes: list[int | None] = []
    for response, status in zip(responses, statuses, strict=True):
        answer = statement(prompt).stated(prompt, response)
        if status is Status.CORRECT:
            classes.append(RIGHT)
        elif status is Status.UNJUDGED or answer is None:
            classes.append(None)
        else:
            place = next(
                (n for n, other in enumerate(known) if _same(prompt, other, answer, judge)), len(known)
            )
            if place == len(known):
                known.append(answer)
            classes.append(place + 1)
    return classes


def _same(prompt: Prompt, one: str, other: str, judge: Reward) -> bool:
    if one == other or not statement(prompt).is_reference:
        return one == other
    return judge(replace(prompt, reference=one), f"\\boxed{{{other}}}").status is Status.CORRECT
