"""Procedural tasks, judged by their own scorers."""

import json
from functools import cache
from typing import Any

from k15.ports import Reward, RewardPorts
from k15.records import Prompt, Status, Verdict
from k15.rewards.answer import last_answer

THRESHOLD = 0.99  # scorers give partial credit to wrong answers


def build(ports: RewardPorts) -> Reward:  # noqa: ARG001 (one signature for all rewards)
    """The reward; it reaches nothing outside."""
    return reasoning_gym


def reasoning_gym(prompt: Prompt, response: str) -> Verdict:
    """Correct where the task's scorer gives the last stated answer full marks; unjudged where it raises."""
    answer = last_answer(response)
    if answer is None:
        return Verdict(Status.WRONG, "no answer stated")
    try:
        metadata = json.loads(prompt.metadata)
        entry = {"question": prompt.text, "answer": prompt.reference, "metadata": metadata}
        score = float(_scorer(metadata["source_dataset"])(answer, entry))
    except Exception as error:  # noqa: BLE001  any fault of a foreign scorer is a recorded third state
        return Verdict(Status.UNJUDGED, f"{type(error).__name__}: {error}")
    return Verdict(Status.CORRECT if score >= THRESHOLD else Status.WRONG)


@cache
def _scorer(dataset: str) -> Any:
    import reasoning_gym as gym  # noqa: PLC0415  a hundred modules, which judging mathematics needs none of

    return gym.get_score_answer_fn(dataset)
