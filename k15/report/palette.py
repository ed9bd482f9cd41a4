"""Colours by what they stand for: each model keeps one class through every drawing of a report."""

from k15.report.facts import RunFacts

NUM_COLOURS = 7
NEUTRAL = "c0"
PHASES = (  # of a round, in the order they happen; what is not compute is orchestration
    ("rollout", "rollout_s", "p1"),
    ("reward", "reward_s", "p2"),
    ("train", "train_s", "p3"),
)


def colours(facts: RunFacts) -> dict[str, str]:
    """A colour class for every stage that makes an evaluated model or plays rounds; others have none."""
    made = [model.key for model in facts.models]
    chosen = [stage.name for stage in facts.stages if stage.key in made or stage.kind == "rl"]
    return {name: f"c{1 + number % (NUM_COLOURS - 1)}" for number, name in enumerate(chosen)}


def of_model(facts: RunFacts) -> dict[str, str]:
    """The colour class of every evaluated model, by the model's name."""
    by_stage = colours(facts)
    keys = {stage.key: by_stage.get(stage.name, NEUTRAL) for stage in facts.stages if stage.key}
    return {model.name: keys.get(model.key, NEUTRAL) for model in facts.models}
