"""Stages that fit tokens: what all have, and pretraining, SFT and long-CoT SFT (METHOD.md §7)."""

from collections.abc import Collection
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from k15.config import Config
from k15.recipes.stage import StageRecipe

HELDOUT = "heldout"  # the role of rows as in the data, never trained on
DATA = "data"  # the role of a lone data set; one of several is data.<name>
Mixture = dict[str, float]  # data sets, by what follows "data." in their role, and their weights


class Rates(Config):
    """A learning rate's course: a linear warm-up to `lr`, then a decay to `final_lr`."""

    lr: float = Field(1e-3, gt=0)
    final_lr: float | None = Field(None, ge=0, description="none: a tenth of lr")
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(20, ge=0)

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.last_lr > self.lr:
            raise ValueError(
                f"final_lr={self.final_lr} is above lr={self.lr}, and a rate only falls after its warm-up; "
                "lower it, or leave it out for a tenth of lr"
            )
        return self

    @property
    def last_lr(self) -> float:
        """Where a decay ends."""
        return self.lr / 10 if self.final_lr is None else self.final_lr


class Adam(Config):
    """What Adam is, whatever its rate."""

    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.98, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    clip_gradient_norm: float = Field(1.0, gt=0)


class Optimizer(Rates, Adam):
    """AdamW and its schedule."""

    weight_decay: float = Field(0.05, ge=0)


class Batching(Config):
    """What each step trains on, and for how many steps."""

    steps: int = Field(0, ge=0, description="0: as many as `epochs` take")
    epochs: int = Field(0, ge=0, description="passes over the data, in place of steps")
    examples_per_step: int = Field(96, ge=1)
    sequences_per_step: int = Field(
        0,
        ge=0,
        description="sequences of max_tokens, packed with whole examples, in place of examples_per_step",
    )
    max_tokens: int = Field(512, ge=8, description="longer examples are refused, never cut silently")
    mixture: Mixture = Field({}, description="empty: every example of every data set, once an epoch")
    mixture_by: Literal["examples", "tokens"] = Field(
        "examples", description="what the weights are shares of"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.steps and self.epochs:
            raise ValueError("steps and epochs are both given; give one of them")
        if self.epochs and self.mixture:
            raise ValueError("a mixture has no epochs: its data sets end at different times; give steps")
        refuse_weights("mixture", self.mixture)
        return self


class Phase(Batching, Rates):
    """A stretch of a run with its own length, data and rates; the optimizer's state goes on."""

    name: str
    lr: float = Field(gt=0)

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if not self.steps and not self.epochs:
            raise ValueError(f"phase {self.name}: give steps or epochs")
        return self


class FitRecipe(StageRecipe):
    """What every stage that fits tokens has: a model, and a data set (`data`) or several (`data.<name>`)."""

    version: ClassVar[int] = 2
    roles: ClassVar[tuple[str, ...]] = ("model",)
    optional_roles: ClassVar[tuple[str, ...]] = (DATA, f"{DATA}.*", HELDOUT)

    seed: int = 0
    max_tokens_per_microbatch: int = Field(4096, ge=8, description="a row is never split")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the forward and backward pass; master weights are float32 in both"
    )
    recompute: bool = Field(False, description="work activations out again on the way back, and keep none")
    optimizer: Optimizer = Optimizer()
    evaluate_every_steps: int = Field(0, ge=0, description="the loss of input heldout; 0: there is none")

    def mixtures(self) -> tuple[Mixture, ...]:
        """Every mixture in the recipe."""
        raise TypeError(f"{type(self).__name__} has to say which mixtures it holds")

    def role_problems(self, roles: Collection[str]) -> tuple[str, ...]:
        """No data set at all, `data` beside others, or one that a mixture names and no role gives.

        Held-out rows without a rhythm for them, or the reverse.
        """
        names = data_names(roles)
        if not names:
            return (f"inputs.{DATA}: missing; {self.kind} needs it, or several as {DATA}.<name>",)
        if DATA in names and len(names) > 1:
            return (f"inputs.{DATA}: there are {DATA}.<name> too; give each data set a name",)
        asked = {name for mixture in self.mixtures() for name in mixture}
        problems = [
            f"recipe: mixture names {name!r}, but there is no input {DATA}.{name}; there are {sorted(names)}"
            for name in sorted(asked - set(names))
        ]
        if (HELDOUT in roles) != bool(self.evaluate_every_steps):
            given = "an input" if HELDOUT in roles else "no input"
            told = f"evaluate_every_steps={self.evaluate_every_steps} and {given} `{HELDOUT}`"
            problems.append(f"recipe: {told}: give both or neither")
        return tuple(problems)


class SupervisedRecipe(FitRecipe, Batching):
    """One phase given by the recipe's own fields, or several `phases` in turn."""

    phases: tuple[Phase, ...] = ()

    @model_validator(mode="after")
    def _steps_or_phases(self) -> Self:
        given = bool(self.steps or self.epochs)
        if given == bool(self.phases):
            raise ValueError("give steps (or epochs), or phases with steps (or epochs) of their own")
        if self.phases and (unused := self._given_beside_phases()):
            raise ValueError(f"{', '.join(unused)}: each phase has its own; move it into the phases")
        for phase in self.all_phases():
            if phase.sequences_per_step and phase.max_tokens > self.max_tokens_per_microbatch:
                raise ValueError(
                    f"max_tokens_per_microbatch={self.max_tokens_per_microbatch} cuts through the sequences "
                    f"of {phase.max_tokens} tokens of phase {phase.name}; raise it to that at least"
                )
        return self

    def _given_beside_phases(self) -> list[str]:
        fields = [name for name in Batching.model_fields if name in self.model_fields_set]
        rates = [name for name in Rates.model_fields if name in self.optimizer.model_fields_set]
        return fields + [f"optimizer.{name}" for name in rates]

    def resolved(self) -> dict[str, Any]:
        """Every field that has an effect: with phases, not those that each of them has instead."""
        values = super().resolved()
        if self.phases:
            values = {name: value for name, value in values.items() if name not in Batching.model_fields}
            optimizer = values["optimizer"].items()
            values["optimizer"] = {name: value for name, value in optimizer if name not in Rates.model_fields}
        return values

    def all_phases(self) -> tuple[Phase, ...]:
        """The phases in turn; a recipe without any is one phase at the optimizer's rates."""
        if self.phases:
            return self.phases
        fields = {name: getattr(self, name) for name in Batching.model_fields}
        rates = {name: getattr(self.optimizer, name) for name in Rates.model_fields}
        return (Phase(name=self.kind, **fields, **rates),)

    def mixtures(self) -> tuple[Mixture, ...]:
        """Those of its phases."""
        return tuple(phase.mixture for phase in self.all_phases())


class PretrainRecipe(SupervisedRecipe):
    """Next-token prediction on every token of the rows. A cooldown is a last phase with data of its own."""

    kind: ClassVar[str] = "pretrain"

    longer: Literal["refuse", "split"] = Field(
        "refuse",
        description="documents over max_tokens; split: into rows, each begun with the last one's end",
    )


class SftRecipe(SupervisedRecipe):
    """Loss on responses only."""

    kind: ClassVar[str] = "sft"

    longer: Literal["refuse", "defer"] = Field(
        "refuse", description="examples over a phase's max_tokens; defer: to a phase they fit in"
    )


class LongCotRecipe(SupervisedRecipe):
    """The light SFT on verified long paths."""

    kind: ClassVar[str] = "longcot"

    longer: Literal["refuse", "defer"] = Field(
        "refuse", description="examples over a phase's max_tokens; defer: to a phase they fit in"
    )


def data_names(roles: Collection[str]) -> list[str]:
    """The data sets among a stage's roles: what follows "data.", or "data" itself."""
    return sorted(role.removeprefix(f"{DATA}.") for role in roles if role.split(".")[0] == DATA)


def data_role(name: str, roles: Collection[str]) -> str:
    """The role of a data set."""
    return name if name in roles else f"{DATA}.{name}"


def refuse_weights(field: str, mixture: Mixture) -> None:
    """ValueError names `field` where a weight is not above 0."""
    if any(weight <= 0 for weight in mixture.values()):
        raise ValueError(f"{field}: every weight must be above 0; leave out what is not to be drawn")
