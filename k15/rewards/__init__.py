"""Rewards: (prompt, response text) → verdict. None raises; what could not be judged is unjudged."""

from k15.ports import Reward
from k15.records import Prompt, Status, Verdict
from k15.rewards.math import math
from k15.rewards.reasoning_gym import reasoning_gym

REWARDS: dict[str, Reward] = {"math": math, "reasoning_gym": reasoning_gym}


def judge(prompt: Prompt, response: str) -> Verdict:
    """The verdict of the reward that the prompt names."""
    reward = REWARDS.get(prompt.reward)
    if reward is None:
        return Verdict(Status.UNJUDGED, f"no reward {prompt.reward!r}; there are {sorted(REWARDS)}")
    return reward(prompt, response)
