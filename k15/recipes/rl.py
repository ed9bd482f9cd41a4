"""The RL phase (METHOD.md §1, §2, §4, §5) and weight merging (§8)."""

from itertools import pairwise
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from k15.config import Config
from k15.recipes.stage import StageRecipe
from k15.recipes.supervised import Adam

SETTINGS_OF = {"tau": "omd", "baseline": "omd", "clip_ratio": "grpo", "kl_weight": "grpo"}


class PolicyUpdate(Adam):
    """Eq. 3, or an objective to compare it with, and its optimizer; the paper discloses no number of these.

    A setting that only another objective reads is refused, unless it has its default.
    """

    objective: Literal["omd", "rest", "grpo"] = Field(
        "omd",
        description="eq. 3; fit the best responses, no negative gradient; group-normalised policy gradient",
    )
    tau: float = Field(0.1, gt=0, description="omd: weight of the squared log-ratio (METHOD.md §1)")
    baseline: Literal["mean", "log_partition"] = Field("mean", description="omd")
    clip_ratio: float = Field(0.2, gt=0, lt=1, description="grpo: a token's ratio counts up to 1 ± this")
    kl_weight: float = Field(
        0.04, ge=0, description="grpo: of KL(policy ‖ the round's first); DeepSeekMath's"
    )
    lr: float = Field(1e-4, gt=0)
    first_step_scale: float = Field(
        0.3, gt=0, le=1, description="of a round's first update: Adam starts as lr·sign(g)"
    )
    inner_steps: int = Field(2, ge=1, description="passes over a round's groups")
    minibatches: int = Field(1, ge=1, description="updates per pass")
    drop_uniform_groups: bool = Field(
        True,
        description="leave groups out whose advantages are all 0 (equal rewards; rest: no success): exact in "
        "a first update, later ones lack their τ or KL term",
    )
    max_tokens_per_microbatch: int = Field(4096, ge=8)
    adam_beta2: float = Field(0.99, ge=0, lt=1)
    mismatch_band: float = Field(
        0.1,
        gt=0,
        description="mismatch_outside counts tokens whose log-prob differs by more from the sampler's",
    )

    @model_validator(mode="after")
    def _only_its_own_settings(self) -> Self:
        for name, owner in SETTINGS_OF.items():
            default = type(self).model_fields[name].default
            if self.objective != owner and getattr(self, name) != default:
                raise ValueError(
                    f'{name} is a setting of objective "{owner}", and "{self.objective}" does not read it; '
                    f"leave {name} out, or set the objective"
                )
        return self


class Band(Config):
    """From a round on, prompts of a range of difficulties only (METHOD.md §4)."""

    from_round: int = Field(ge=0)
    easiest: float = Field(0.0, ge=0, le=1)
    hardest: float = Field(1.0, ge=0, le=1)


class RlRecipe(StageRecipe):
    """Rounds of roll out → reward → train → commit."""

    kind: ClassVar[str] = "rl"
    version: ClassVar[int] = 5
    roles: ClassVar[tuple[str, ...]] = ("model", "prompts")

    seed: int = 0
    rounds: int = Field(30, ge=1)
    prompts_per_round: int = Field(
        64,
        ge=1,
        description="with samples_per_prompt, the responses a phase has room for; unfinished ones come first",
    )
    samples_per_prompt: int = Field(8, ge=2, description="k of eq. 3")
    max_response_tokens: int = Field(64, ge=1)
    phase_token_budget: int = Field(
        64, ge=1, description="tokens per trajectory and phase; the rest continues next round"
    )
    phase_deadline_s: float = Field(
        3600.0, gt=0, description="what runs then keeps its tokens and continues next round"
    )
    max_segments: int = Field(
        8,
        ge=1,
        description="phases of a trajectory: then it is cut by length, or given up if deadlines held it back",
    )
    min_finished: int = Field(
        0,
        ge=0,
        description="responses with which a phase's end judges a group, its others given up; 0: all k",
    )
    loss_segments: Literal["newest", "all"] = Field(
        "all",
        description="newest: what the policy at hand sampled; older tokens still count in the rewards",
    )
    old_segments: Literal["round_start"] = Field(
        "round_start",
        description="the policy that older tokens in the loss are held against, as all others are: the one a "
        "round starts from (METHOD.md §5 leaves it open). Nothing corrects their ratio; held against the one "
        "that sampled them, τ times a log-ratio of hundreds of tokens drowned the reward at high rates",
    )
    repeat_max_period: int = Field(
        0, ge=0, description="a response that repeats with a period up to this is stopped; 0: none is"
    )
    repeat_penalty: float = Field(0.0, ge=0, description="taken off the reward of a response so stopped")
    train_groups: int = Field(
        0, ge=0, description="groups drawn from the buffer for an update; 0: all that are in it"
    )
    buffer_groups: int = Field(
        0, ge=0, description="finished groups kept for later rounds; the oldest leave first"
    )
    group_uses: int = Field(1, ge=1, description="rounds a group may be trained on")
    temperature: float = Field(1.0, gt=0)
    lr_warmup_rounds: int = Field(5, ge=0)
    length_reward_weight: float = Field(0.0, ge=0)
    length_reward_from_round: int = Field(0, ge=0)
    sampler: Literal["uniform", "curriculum", "prioritized"] = "uniform"
    curriculum: tuple[Band, ...] = (Band(from_round=0), Band(from_round=24, easiest=0.5))
    priority_floor: float = Field(0.05, ge=0, le=1)
    priority_prior: float = Field(
        0.5, ge=0, le=1, description="success rate assumed of a prompt not yet tried"
    )
    stop_without_gain_rounds: int = Field(
        0, ge=0, description="end once the mean pass rate of this many rounds is no new best; 0: never"
    )
    stop_after_tokens: int = Field(0, ge=0, description="end once this many were sampled; 0: never")
    stop_after_hours: float = Field(0.0, ge=0, description="end once the rounds took this long; 0: never")
    mismatch_limit: float = Field(
        0.01, gt=0, description="largest mean |log-prob difference| of trainer and sampler"
    )
    transport: Literal["shared_memory", "tcp", "rdma"] = "shared_memory"
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of both engines; bfloat16 trains with fp32 master weights, and CUDA asks for it",
    )
    recompute: bool = Field(False, description="work activations out again on the way back, and keep none")
    update: PolicyUpdate = PolicyUpdate()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_finished == 1 or self.min_finished > self.samples_per_prompt:
            raise ValueError(
                f"min_finished is {self.min_finished}: a baseline needs 2 or more of the"
                f" {self.samples_per_prompt} samples (0: all of them)"
            )
        if (self.group_uses > 1 or self.train_groups) and not self.buffer_groups:
            raise ValueError(
                "train_groups and group_uses leave groups for later rounds: set buffer_groups too"
            )
        starts = [band.from_round for band in self.curriculum]
        if not starts or starts[0] or any(first >= second for first, second in pairwise(starts)):
            raise ValueError(f"curriculum: bands start at rounds 0, …, rising; these at {starts}")
        for band in self.curriculum:
            if band.easiest > band.hardest:
                raise ValueError(f"curriculum: no difficulty lies in {band.easiest} to {band.hardest}")
        return self


class MergeRecipe(StageRecipe):
    """The weighted average of two models' weights; the paper's is the plain one."""

    kind: ClassVar[str] = "merge"
    version: ClassVar[int] = 1
    roles: ClassVar[tuple[str, ...]] = ("long", "short")

    long_weight: float = Field(0.5, ge=0, le=1)
