"""What judges a stage's responses: the rewards its prompts name, on the ports they need."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from k15.ports import Reward, RewardPorts
from k15.records import Prompt
from k15.rewards import judging
from k15.rewards.pool import ComparisonPool


@contextmanager
def open_judge(prompts: Iterable[Prompt], *, cores: int) -> Iterator[Reward]:
    """The judge of `prompts`; ValueError where one names a reward that does not exist or cannot run here."""
    names = {prompt.reward for prompt in prompts}
    with ExitStack() as stack:
        equivalence = stack.enter_context(ComparisonPool(cores)) if "math" in names else None
        yield judging(names, RewardPorts(equivalence=equivalence))
