"""The bodies of the services' calls, as msgpack carries them."""

from dataclasses import dataclass
from typing import Any

from k15.records import Group, SampleRequest, Sequence, TensorSpec, WeightSource, WeightTicket

NO_SPACE = 507  # the status of a call that found the disk full


@dataclass(frozen=True, slots=True)
class Empty:
    """A call or an answer that says nothing more."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The answer to a call that failed."""

    message: str


@dataclass(frozen=True, slots=True)
class SampleCall:
    """Sampler.sample; its answer is a stream of records.SamplePart."""

    requests: tuple[SampleRequest, ...]
    deadline_s: float
    session: str = ""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a trainer asks of a sampler."""

    model: str  # k15.engines.identity.model_identity
    precision: str
    max_tokens: int  # of prompt and response


@dataclass(frozen=True, slots=True)
class ChannelCall:
    """Open the sampler's end of a weight channel for tensors in this layout; `session` drives it then."""

    layout: tuple[TensorSpec, ...]
    session: str = ""
    needs: Needs | None = None


@dataclass(frozen=True, slots=True)
class UpdateCall:
    """Sampler.update."""

    ticket: WeightTicket
    deadline_s: float
    session: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """The process answers; its engine has been at one step of a sampling call for so long, 0 when at none."""

    step_s: float = 0.0


@dataclass(frozen=True, slots=True)
class HealthCall:
    """Whether the sampler's process answers; a sign of life from its holder."""

    session: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """Where others may take the weights that this sampler has taken; None: where it takes them itself."""

    copy: WeightSource | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Trainer.layout."""

    tensors: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class SupervisedCall:
    """Trainer.supervised_step."""

    batch: tuple[Sequence, ...]
    lr: float


@dataclass(frozen=True, slots=True)
class PolicyCall:
    """Trainer.policy_update; settings are those of recipes.rl.PolicyUpdate."""

    groups: tuple[Group, ...]
    settings: dict[str, Any]
    lr: float


@dataclass(frozen=True, slots=True)
class RowsCall:
    """Trainer.logprobs."""

    rows: tuple[Sequence, ...]


@dataclass(frozen=True, slots=True)
class PublishCall:
    """Lay the trainer's weights out for samplers as `version`."""

    version: int
    deadline_s: float


@dataclass(frozen=True, slots=True)
class SaveCall:
    """Trainer.save."""

    directory: str
