"""What judges a stage's responses: the rewards its prompts name, on the ports they need."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from k15.engines.sandbox.client import Sandbox, launch_sandbox
from k15.engines.sandbox.settings import SandboxSettings
from k15.ports import Reward, RewardPorts
from k15.recipes.pipeline import Resources
from k15.records import Prompt
from k15.rewards import judging
from k15.rewards.pool import ComparisonPool

log = logging.getLogger("stages.rewards")


@contextmanager
def open_judge(prompts: Iterable[Prompt], resources: Resources, scratch: Path) -> Iterator[Reward]:
    """The judge of `prompts`; ValueError where one names a reward that does not exist or cannot run here."""
    names = {prompt.reward for prompt in prompts}
    with ExitStack() as stack:
        equivalence = stack.enter_context(ComparisonPool(resources.cores)) if "math" in names else None
        sandbox = stack.enter_context(open_sandbox(resources, scratch)) if "code" in names else None
        yield judging(names, RewardPorts(equivalence=equivalence, sandbox=sandbox))


@contextmanager
def open_sandbox(resources: Resources, scratch: Path) -> Iterator[Sandbox]:
    """A sandbox of its own with a slot for each core; ValueError where this machine cannot have one."""
    settings = SandboxSettings(isolation=resources.isolation, slots=resources.cores)
    with launch_sandbox(settings, log_path=scratch / "sandbox.log") as service:
        service.wait_ready()
        with Sandbox(service.port, service.token, isolation=settings.isolation) as sandbox:
            log.info("sandbox isolation=%s slots=%d", settings.isolation, settings.slots)
            yield sandbox
