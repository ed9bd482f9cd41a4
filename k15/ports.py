"""The protocols between the loops and the engines."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from k15.programs import Job, JobResult
from k15.records import (
    Answer,
    Group,
    Prompt,
    SampleRequest,
    SampleStats,
    TensorSpec,
    UpdateStats,
    Verdict,
    WeightSource,
    WeightTicket,
)

# A response's verdict by the prompt's reference: pure, raises nothing, and any thread may call it.
Reward = Callable[[Prompt, str], Verdict]


class Sampler(Protocol):
    """A rollout engine that holds one version of the policy."""

    version: int
    stats: SampleStats  # of the last call that ended

    def sample(self, requests: Sequence[SampleRequest], *, deadline_s: float) -> Iterator[Answer]:
        """The index of a request with its num_samples segments, each as soon as all of them ended.

        Sample j is drawn with seed `request.seed + j`. At the deadline what still runs is ended with the
        tokens it has, and with End.BUDGET: an empty segment where it never began.
        """

    def update(self, ticket: WeightTicket, *, deadline_s: float) -> None:
        """Serve the weights of `ticket`; ConnectionError on a wrong checksum (the old ones stay).

        ValueError where its version is older than the one served, or the same with other weights.
        """


class Trainer(Protocol):
    """A training engine that holds the policy's weights."""

    def supervised_step(self, batch: Sequence[Any], *, lr: float) -> dict[str, float]:
        """One optimizer step of token cross-entropy on `batch`; the loss is the mean per loss token."""

    def policy_update(self, groups: Sequence[Group], *, settings: Any, lr: float) -> UpdateStats:
        """One iteration of METHOD.md §1 on `groups`: optimizer reset, reference under the weights now.

        `settings` is a recipes.rl.PolicyUpdate; `lr` the rate of this round.
        """

    def logprobs(self, rows: Sequence[Any]) -> list[list[float]]:
        """For each records.Sequence the log-probs of its loss tokens, under the weights now."""

    def layout(self) -> list[TensorSpec]:
        """The HF tensors in transfer order, with offsets into one buffer."""

    def publish(self, version: int, *, deadline_s: float) -> WeightTicket:
        """Lay the current weights out for samplers to take as `version`."""

    def save(self, directory: Path) -> None:
        """Write the weights as sharded safetensors in HF layout, with config and tokenizer."""


class Sandbox(Protocol):
    """Where programs of models are judged."""

    def judge(self, job: Job) -> JobResult:
        """The verdict on a program; unjudged, with a reason, where the sandbox itself failed.

        ValueError where the job cannot be judged at all; it names the field.
        """


class Equivalence(Protocol):
    """Where answers in mathematics are compared: hostile ones take neither time nor memory without bound."""

    def compare(self, reference: str, answer: str) -> Verdict:
        """Correct, wrong, or unjudged with the reason; any thread may ask."""

    def refusal(self, reference: str) -> str:
        """Why no answer could be compared with `reference`; empty where one can."""


@dataclass(frozen=True, slots=True)
class RewardPorts:
    """What rewards reach outside themselves; None where the stage opened none."""

    equivalence: Equivalence | None = None
    sandbox: Sandbox | None = None


class WeightSender(Protocol):
    """The trainer's end of a weight channel: one copy of the newest version, for any number of receivers."""

    def send(self, tensors: Any, version: int, *, deadline_s: float) -> WeightTicket:
        """Lay every tensor where receivers can take it; ValueError where the version is not a newer one."""

    def close(self) -> None: ...


class WeightReceiver(Protocol):
    """The sampler's end of a weight channel."""

    @property
    def path(self) -> str:
        """The file with the slot that was taken last, for other processes of the host to map while it is.

        The payload follows the header's page, as k15.engines.weights says.
        """

    def source(self) -> WeightSource | None:
        """Where others may take what this end has taken; None where they read the trainer's own copy."""

    def take(self, ticket: WeightTicket, *, deadline_s: float) -> AbstractContextManager[memoryview]:
        """The verified bytes of a version, while the block lasts.

        ConnectionError where the source is gone or bytes, version or checksum differ; TimeoutError past the
        deadline. RuntimeError on leaving: the bytes were replaced meanwhile; what was made of them is torn.
        """

    def close(self) -> None: ...
