"""Answers in mathematics, equal up to notation (k15.rewards.equality says how)."""

from k15.ports import Reward, RewardPorts
from k15.records import Prompt, Status, Verdict
from k15.rewards.answer import last_answer


def build(ports: RewardPorts) -> Reward:
    """Correct where the last stated answer equals the reference; ValueError without ports.equivalence."""
    equivalence = ports.equivalence
    if equivalence is None:
        raise ValueError("reward math compares answers in other processes; give ports.equivalence")

    def math(prompt: Prompt, response: str) -> Verdict:
        answer = last_answer(response)
        if answer is None:
            return Verdict(Status.WRONG, "no answer stated")
        if answer == prompt.reference:
            return Verdict(Status.CORRECT)
        return equivalence.compare(prompt.reference, answer)

    return math
