"""What a run found, in words and tiles: gains with their paired intervals, and what they were bought with."""

from dataclasses import dataclass

from k15.report.facts import Measure, Model, Phase, RunFacts


@dataclass(frozen=True)
class Gain:
    """What one RL stage changed against the model it started from: points of accuracy, and tokens."""

    phase: Phase
    before: Model
    after: Model
    points: Measure  # 0 to 1
    tokens: Measure  # a share: -0.3 is 30 % fewer

    @property
    def cuts_length(self) -> bool:
        """Whether the stage was there to shorten responses."""
        return self.phase.length_weight > 0


@dataclass(frozen=True)
class Tile:
    """One number of the head of the page."""

    name: str
    value: str
    unit: str
    more: str


def gains(facts: RunFacts) -> list[Gain]:
    """Every RL stage whose start and end were both evaluated."""
    found = []
    keys = {stage.name: stage for stage in facts.stages}
    for phase in facts.phases:
        manifest = keys[phase.name].manifest
        after = facts.made_by(keys[phase.name].key)
        before = facts.made_by(manifest.inputs["model"].key) if manifest else None
        pair = facts.difference(after.name, before.name) if after and before else None
        if before and after and pair:
            base = before.tokens.value or 1.0
            tokens = Measure(
                *(value / base for value in (pair.tokens.value, pair.tokens.low, pair.tokens.high))
            )
            found.append(Gain(phase, before, after, pair.sampled, tokens))
    return found


def headline(facts: RunFacts) -> str:
    """The run in a sentence, in HTML; numbers only where they were measured."""
    parts = [_clause(gain) for gain in gains(facts)]
    if parts:
        text = "; ".join(parts)
        return text[0].upper() + text[1:] + "."
    if facts.models:
        best = max(facts.models, key=lambda model: model.sampled.value)
        share = f"<em>{best.sampled.value:.1%}</em> sampled pass@1"
        return f"Best of {len(facts.models)} models: {best.name}, {share}."
    return f"{facts.record.pipeline}: {len(facts.stages)} stages, {facts.record.state}."


def _clause(gain: Gain) -> str:
    before, after = gain.before.sampled.value, gain.after.sampled.value
    measure = gain.tokens if gain.cuts_length else gain.points
    noise = ", within the noise" if measure.low <= 0 <= measure.high else ""
    if gain.cuts_length:
        verb = "cuts" if gain.tokens.value <= 0 else "adds"
        change = f"{signed(100 * gain.points.value)} points"
        share = f"<em>{abs(gain.tokens.value):.0%} of the tokens</em>"
        return f"the length reward {verb} {share}{noise} at {change} of accuracy"
    verb = "lifts" if after >= before else "lowers"
    return f"RL {verb} sampled pass@1 from {before:.1%} to <em>{after:.1%}</em>{noise}"


def tiles(facts: RunFacts) -> list[Tile]:
    """The numbers that a reader looks for first."""
    found = []
    final = facts.made_by(facts.record.final_key)
    if final:
        more = f"95% interval {_span(final.sampled, 100)} · greedy {final.greedy.value:.1%}"
        found.append(Tile(f"Final model, {final.name}", f"{final.sampled.value:.1%}", "pass@1", more))
    for gain in gains(facts):
        found.append(_gain_tile(gain))
        control = _control_of(facts, gain)
        pair = facts.difference(gain.after.name, control.name) if control and not gain.cuts_length else None
        if control and pair:
            more = f"{_span(pair.sampled, 100, with_sign=True)} · {_effort(facts, gain, control)}"
            value = signed(100 * pair.sampled.value)
            found.append(Tile(f"{gain.after.name} over {control.name}", value, "points", more))
    idle = facts.orchestration
    if idle:
        more = f"{idle.share:.1%} of the wall time, median of {idle.num_rounds} rounds"
        found.append(Tile("Orchestration of a round", f"{idle.seconds:.2f}", "s", more))
    return found


def _gain_tile(gain: Gain) -> Tile:
    names = f"{gain.after.name} over {gain.before.name}"
    if gain.cuts_length:
        more = (
            f"{_span(gain.tokens, 100, with_sign=True)} · accuracy {signed(100 * gain.points.value)} points"
        )
        return Tile(f"Tokens, {names}", f"{signed(100 * gain.tokens.value, 0)}%", "", more)
    more = f"{_span(gain.points, 100, with_sign=True)} · paired by prompt"
    return Tile(names, signed(100 * gain.points.value), "points", more)


def _control_of(facts: RunFacts, gain: Gain) -> Model | None:
    """A supervised model made from the same model as the RL stage's: what more training alone gives."""
    for stage in facts.stages:
        made_from = stage.manifest.inputs.get("model") if stage.manifest else None
        model = facts.made_by(stage.key)
        if model and made_from and made_from.key == gain.before.key and stage.kind != "rl":
            return model
    return None


def _effort(facts: RunFacts, gain: Gain, control: Model) -> str:
    made = facts.lineage.get(control.key)
    steps = made.recipe.get("steps") if made else None
    updates = sum(row.get("num_updates", 0) for row in gain.phase.rounds)
    return f"{steps} updates each" if steps and steps == updates else "paired by prompt"


def signed(value: float, decimals: int = 1) -> str:
    """A number with its sign, a true minus."""
    return f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", "−")  # no minus zero


def _span(measure: Measure, scale: float, *, with_sign: bool = False) -> str:
    low, high = scale * measure.low, scale * measure.high
    return f"{signed(low)} to {signed(high)}" if with_sign else f"{low:.1f} to {high:.1f}"
