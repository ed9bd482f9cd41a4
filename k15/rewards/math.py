"""Answers in mathematics, equal up to notation (math-verify)."""

import re
import threading

import math_verify
from math_verify.errors import TimeoutException

from k15.ports import Reward, RewardPorts
from k15.records import Prompt, Status, Verdict
from k15.rewards.answer import last_answer

TIMEOUT_S = 2  # by signal, so on the main thread only
MAX_CHARACTERS = 200  # a longer answer is prose or hostile


def build(ports: RewardPorts) -> Reward:  # noqa: ARG001 (one signature for all rewards)
    """The reward; it reaches nothing outside."""
    return math


def math(prompt: Prompt, response: str) -> Verdict:
    """Correct where the last stated answer equals the reference; unjudged where none could be compared."""
    answer = last_answer(response)
    if answer is None:
        return Verdict(Status.WRONG, "no answer stated")
    if _plain(answer) == _plain(prompt.reference):
        return Verdict(Status.CORRECT)
    if len(answer) > MAX_CHARACTERS:
        return Verdict(Status.WRONG, f"an answer of more than {MAX_CHARACTERS} characters")
    try:
        return _compare(prompt.reference, answer)
    except (Exception, TimeoutException) as error:  # noqa: BLE001  any fault is a recorded third state
        return Verdict(Status.UNJUDGED, f"{type(error).__name__}: {error}")


def _compare(reference: str, answer: str) -> Verdict:
    timeout_s = TIMEOUT_S if threading.current_thread() is threading.main_thread() else None
    gold = math_verify.parse(f"\\boxed{{{reference}}}", parsing_timeout=timeout_s, raise_on_error=True)
    stated = math_verify.parse(f"\\boxed{{{answer}}}", parsing_timeout=timeout_s, raise_on_error=True)
    if not gold:
        return Verdict(Status.UNJUDGED, f"the reference {reference!r} is no expression math-verify reads")
    equal = bool(stated) and math_verify.verify(gold, stated, timeout_seconds=timeout_s, raise_on_error=True)
    return Verdict(Status.CORRECT if equal else Status.WRONG)


def _plain(answer: str) -> str:
    """Without spaces, dollar signs, thousands' commas and a closing full stop."""
    bare = re.sub(r"[\s$]", "", answer).removesuffix(".")
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", bare)
