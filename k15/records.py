"""The nouns that travel between stages and services: prompts, trajectories, verdicts, batches.

Plain frozen dataclasses: msgspec carries them between processes, parquet keeps them between stages.
Tokens are ids of the model's own tokenizer. Lengths count tokens.
"""

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a prompt. `text` for kind "text"; for kind "image" the sha256 of the stored bytes."""

    kind: str  # "text" | "image"
    text: str = ""
    digest: str = ""
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A problem x with its reference answer y*, and what curation knows of it (METHOD.md §3)."""

    id: str  # stable: a digest of task and content
    parts: tuple[Part, ...]
    reference: str
    task: str  # the family or data set
    difficulty: float  # 0 (easy) to 1 (hard)
    reward: str  # name in k15.rewards.REWARDS
    metadata: str = "{}"  # JSON the reward needs beside the reference

    @property
    def text(self) -> str:
        """The text parts in order; ValueError where an image part would be lost."""
        if any(part.kind != "text" for part in self.parts):
            raise ValueError(f"prompt {self.id} has image parts; this stage reads text only")
        return "".join(part.text for part in self.parts)


class End(StrEnum):
    """Why a segment ended (METHOD.md §5)."""

    STOP = "stop"  # the model ended its answer
    BUDGET = "budget"  # this phase's token budget; continued in a later one
    LENGTH = "length"  # the largest response length
    REPEAT = "repeat"  # stopped early because it repeats itself
    GIVEN_UP = "given_up"  # a straggler that no later phase continues: never judged, its tokens are lost


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens one policy version sampled in one phase, with their log-probs under that policy."""

    policy_version: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    end: End


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One response (z, y) to a prompt, made of segments of one or more phases, oldest first."""

    prompt_id: str
    sample: int  # 0..k-1 within its group
    prompt_token_ids: tuple[int, ...]
    segments: tuple[Segment, ...] = ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Response tokens of all segments."""
        return tuple(token for segment in self.segments for token in segment.token_ids)

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Sampling log-probs of all response tokens."""
        return tuple(value for segment in self.segments for value in segment.logprobs)

    @property
    def finished(self) -> bool:
        """Whether no later phase will continue it."""
        return bool(self.segments) and self.segments[-1].end is not End.BUDGET


class Status(StrEnum):
    """A reward's outcome; unjudged is a third state, never a 0."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNJUDGED = "unjudged"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reward says of one response, with a reason where it is unjudged."""

    status: Status
    reason: str = ""

    @property
    def score(self) -> float:
        """r in {0, 1}; ValueError where nothing was judged."""
        if self.status is Status.UNJUDGED:
            raise ValueError(f"an unjudged response has no score ({self.reason})")
        return float(self.status is Status.CORRECT)


@dataclass(frozen=True, slots=True)
class Sequence:
    """One row to train on: tokens, and whether each one's log-prob enters the loss (the first never does)."""

    token_ids: tuple[int, ...]
    in_loss: tuple[bool, ...]

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.in_loss) or len(self.token_ids) < 2 or self.in_loss[0]:
            raise ValueError(
                f"a training row needs 2 or more tokens and as many loss flags, the first one off: "
                f"got {len(self.token_ids)} tokens, {len(self.in_loss)} flags"
            )


@dataclass(frozen=True, slots=True)
class Group:
    """The k judged responses of one problem, as the policy update takes them."""

    prompt_id: str
    sequences: tuple[Sequence, ...]
    rewards: tuple[float, ...]  # r_j, length reward and penalties already added
    # Of the sampler, one for each token with in_loss; NaN where an older policy sampled it.
    logprobs: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Where one tensor lies in a weight buffer."""

    name: str  # HF name
    dtype: str  # "float32" | "bfloat16" | "float16"
    shape: tuple[int, ...]
    offset: int  # bytes


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Where a version of the weights can be taken from."""

    transport: str  # "shared_memory" | "tcp" | "rdma"
    place: str  # a file's name in shared memory, or host:port
    base: int = 0  # address of the slot in that process; tcp and rdma


@dataclass(frozen=True, slots=True)
class WeightTicket:
    """What a sampler must find at `source` before it serves a token with these weights."""

    version: int
    checksum: int  # k15.engines.weights.checksum of all bytes
    num_bytes: int
    source: WeightSource


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """k responses to one prompt, or the continuation of one (then `prefix` holds its tokens so far)."""

    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    num_samples: int = 1
    prefix: tuple[int, ...] = ()
    temperature: float = 1.0
    seed: int = 0
    want_logprobs: bool = True
    max_period: int = 0  # End.REPEAT where the response's end repeats with a period up to it; 0: never


Answer = tuple[int, list[Segment]]  # the index of a request, and its num_samples segments


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds of the samplers' turn on devices they share with the trainer, but for the sampling itself."""

    offload: float = 0.0
    start: float = 0.0
    update: float = 0.0
    end: float = 0.0
    onload: float = 0.0

    @property
    def before(self) -> float:
        """Until the samplers held the weights."""
        return self.offload + self.start + self.update


@dataclass(frozen=True, slots=True)
class SampleStats:
    """What one call of a sampler did, or did so far. Tokens of prompts count once per sample."""

    num_requests: int = 0
    num_tokens: int = 0  # sampled
    num_prompt_tokens: int = 0  # of prompts, and of responses so far where they are continued
    num_cached_tokens: int = 0  # of these, found in the prefix cache
    num_continued_tokens: int = 0  # as num_prompt_tokens, of continued responses only
    num_continued_cached_tokens: int = 0
    num_moved: int = 0  # responses that a lost replica owed, sampled from their start by another one
    num_left: int = 0  # responses that one owed, and that no other had time for: they have no new token
    seconds: float = 0.0
    lost: tuple[str, ...] = ()  # replicas lost since the call before, each with the reason
    shares: tuple[tuple[str, float], ...] = ()  # of the tokens, by replica where there are several
    turn: Turn | None = None  # where trainer and samplers share their devices

    @property
    def prefix_hit_share(self) -> float:
        """Share of the continued responses' tokens, prompts included, found in the cache; 0 without any."""
        return self.num_continued_cached_tokens / max(1, self.num_continued_tokens)


@dataclass(frozen=True, slots=True)
class SamplePart:
    """The requests that a step of a sampling call completed; with the last one what the call did."""

    answers: list[Answer]
    stats: SampleStats | None = None


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What one policy update measured. Seconds are wall time in the trainer."""

    num_updates: int
    loss: float
    gradient_norm: float
    num_tokens: int
    mismatch_mean: float  # |log p_trainer - log p_sampler| of the same tokens
    mismatch_max: float
    seconds: float
    extra: dict[str, float] = field(default_factory=dict)
