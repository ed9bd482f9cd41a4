"""The protocols between the loops and the engines."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from k15.records import (
    Answer,
    Group,
    Prompt,
    SampleRequest,
    SampleStats,
    TensorSpec,
    UpdateStats,
    Verdict,
    WeightTicket,
)

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
        """Serve the weights of `ticket`; ConnectionError on a wrong checksum (the old ones stay)."""


class Trainer(Protocol):
    """A training engine that holds the policy's weights."""

    def supervised_step(self, batch: Sequence[Any], *, lr: float) -> dict[str, float]:
        """One optimizer step of token cross-entropy on `batch`; the loss is the mean per loss token."""

    def policy_update(self, groups: Sequence[Group], *, settings: Any, lr: float) -> UpdateStats:
        """One iteration of METHOD.md §1 on `groups`: optimizer reset, reference under the weights now.

        `settings` is a recipes.rl.PolicyUpdate; `lr` the rate of this round.
        """

    def layout(self) -> list[TensorSpec]:
        """The HF tensors in transfer order, with offsets into one buffer."""

    def publish(self, version: int, *, deadline_s: float) -> WeightTicket:
        """Send the current weights through the connected channel as `version`."""

    def save(self, directory: Path) -> None:
        """Write the weights as sharded safetensors in HF layout, with config and tokenizer."""


class WeightSender(Protocol):
    """The trainer's end of a weight channel."""

    def send(self, tensors: Any, version: int, *, deadline_s: float) -> WeightTicket:
        """Put every tensor where the receiver can take it; TimeoutError or ConnectionError name the peer."""

    def close(self) -> None: ...


class WeightReceiver(Protocol):
    """The sampler's end of a weight channel."""

    def address(self) -> dict[str, Any]:
        """What the sender needs to reach this buffer."""

    def take(self, ticket: WeightTicket) -> memoryview:
        """The verified bytes of a version; ConnectionError where checksum or version differ."""

    def close(self) -> None: ...
