"""Rewards: (prompt, response text) → verdict. None raises; what could not be judged is unjudged.

A reward's module has `build(ports) -> Reward`; what it reaches outside itself (a sandbox, a judge) is a port.
"""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from k15.ports import Reward, RewardPorts
from k15.records import Prompt, Status, Verdict
from k15.rewards import code, math, reasoning_gym
from k15.rewards.answer import ANSWER, Statement

REWARDS: dict[str, Callable[[RewardPorts], Reward]] = {
    "code": code.build,
    "math": math.build,
    "reasoning_gym": reasoning_gym.build,
}
PROGRAMS = {"code": code.STATEMENT}  # the other rewards read answers
TRIES = 2  # of what comes back unjudged: a worker or a service may be up again
AT_ONCE = 32


def judging(names: Collection[str], ports: RewardPorts) -> Reward:
    """The reward that judges each prompt by the one it names, for prompts that name only `names`.

    ValueError for a name that is not in REWARDS, or where `ports` lacks what one of them needs.
    """
    if unknown := sorted(set(names) - set(REWARDS)):
        raise ValueError(f"no reward {', '.join(unknown)}; prompts may name {', '.join(sorted(REWARDS))}")
    rewards = {name: REWARDS[name](ports) for name in names}

    def judge(prompt: Prompt, response: str) -> Verdict:
        for _ in range(TRIES):
            verdict = rewards[prompt.reward](prompt, response)
            if verdict.status is not Status.UNJUDGED:
                break
        return verdict

    return judge


def judge_all(judge: Reward, responses: Sequence[tuple[Prompt, str]]) -> list[Verdict]:
    """The verdict of every response, up to AT_ONCE of them judged at a time."""
    if len(responses) < 2:
        return [judge(prompt, response) for prompt, response in responses]
    with ThreadPoolExecutor(min(AT_ONCE, len(responses)), thread_name_prefix="judge") as pool:
        return list(pool.map(lambda pair: judge(*pair), responses))


def statement(prompt: Prompt) -> Statement:
    """How responses to `prompt` state what its reward judges."""
    return PROGRAMS.get(prompt.reward, ANSWER)
