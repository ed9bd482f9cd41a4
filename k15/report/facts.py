"""The facts of one pipeline run, read from the store: what report.json holds and what the page draws."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from k15.store.artifact import Store
from k15.store.graph import upstream
from k15.store.manifest import Manifest
from k15.store.runs import RunRecord

COMPUTE = ("rollout_s", "reward_s", "train_s")
MODEL_ROLE = "model."
ORCHESTRATION = "orchestration_s"


@dataclass(frozen=True)
class Measure:
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Model:
    """One evaluated model. `key` is that of the stage that made it."""

    name: str
    key: str
    sampled: Measure
    greedy: Measure
    tokens: Measure
    n: int
    unjudged: int
    by_task: Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """`first` minus `second`, paired by prompt: points of accuracy (0 to 1), and tokens."""

    first: str
    second: str
    sampled: Measure
    tokens: Measure


@dataclass(frozen=True)
class Stage:
    """One node of the run. `seconds` is what this run spent on it, `made_seconds` what making it took."""

    name: str
    kind: str
    key: str
    state: str
    cached: bool
    seconds: float
    started: str
    made_seconds: float
    manifest: Manifest | None


@dataclass(frozen=True)
class Phase:
    """The rounds of one RL stage; `after` names the RL stage whose model it starts from, if any."""

    name: str
    after: str
    length_weight: float
    rounds: tuple[Mapping[str, float], ...]


@dataclass(frozen=True)
class Orchestration:
    """What of a round is neither rollout nor reward nor training: medians over `num_rounds` rounds."""

    seconds: float
    share: float
    num_rounds: int


@dataclass(frozen=True)
class RunFacts:
    """Everything the report says of a run."""

    record: RunRecord
    root: str  # the store's address
    model_uri: str
    models: tuple[Model, ...]
    pairs: tuple[Pair, ...]
    stages: tuple[Stage, ...]
    phases: tuple[Phase, ...]
    trajectories: tuple[Mapping[str, Any], ...]
    contexts: tuple[Mapping[str, Any], ...]  # context.json of every long-context evaluation
    lineage: Mapping[str, Manifest]  # every stage the run's artifacts were made from, by key, producers first

    def model(self, name: str) -> Model | None:
        """An evaluated model by its name."""
        return next((model for model in self.models if model.name == name), None)

    def made_by(self, key: str) -> Model | None:
        """The evaluated model that a stage made."""
        return next((model for model in self.models if model.key == key), None)

    def difference(self, first: str, second: str) -> Pair | None:
        """`first` minus `second`, however the evaluation stored the pair."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
            if (pair.first, pair.second) == (second, first):
                return Pair(first, second, _negated(pair.sampled), _negated(pair.tokens))
        return None

    @property
    def orchestration(self) -> Orchestration | None:
        """Over every round of every RL stage; None where there was none."""
        return orchestration([row for phase in self.phases for row in phase.rounds])


def orchestration(rows: Sequence[Mapping[str, float]]) -> Orchestration | None:
    """Wall time of a round minus rollout, reward and training (which follow each other), and its share.

    Medians over rounds; training includes the reference pass.
    """
    if not rows:
        return None
    idle = [max(0.0, row["wall_s"] - sum(row.get(name, 0.0) for name in COMPUTE)) for row in rows]
    shares = [seconds / row["wall_s"] for seconds, row in zip(idle, rows, strict=True)]
    return Orchestration(median(idle), median(shares), len(rows))


def collect(store: Store, record: RunRecord) -> RunFacts:
    """Read what the finished stages of a run left; a run that failed gives what there is."""
    known = {manifest.key: manifest for manifest in store.manifests()}
    keys = [node.key for node in record.nodes.values() if node.key]
    lineage = upstream(known, keys)
    mine = {name: known[node.key] for name, node in record.nodes.items() if node.key in known}
    models, pairs, trajectories = _evaluations(store, mine)
    return RunFacts(
        record=record,
        root=store.objects.settings.root,
        model_uri=store.uri(record.final_key) if record.final_key else "",
        models=models,
        pairs=pairs,
        stages=tuple(_stage(record, name, mine) for name in _ordered(record, lineage)),
        phases=tuple(_phase(store, name, mine) for name in mine if mine[name].kind == "rl"),
        trajectories=trajectories,
        contexts=tuple(
            store.open(manifest.ref()).read_json("context.json")
            for manifest in mine.values()
            if manifest.kind == "context"
        ),
        lineage=lineage,
    )


def _evaluations(
    store: Store, mine: Mapping[str, Manifest]
) -> tuple[tuple[Model, ...], tuple[Pair, ...], tuple[Mapping[str, Any], ...]]:
    models: list[Model] = []
    pairs: list[Pair] = []
    shown: list[Mapping[str, Any]] = []
    order = {manifest.key: number for number, manifest in enumerate(upstream_of_all(mine))}
    for manifest in mine.values():
        if manifest.kind != "evaluate":
            continue
        artifact = store.open(manifest.ref())
        values = artifact.read_json("evaluation.json")
        models += [_model(row, manifest) for row in values["models"]]
        pairs += [_pair(row) for row in values["pairs"]]
        shown += artifact.read_json("trajectories.json")
    models.sort(key=lambda model: order.get(model.key, len(order)))
    return tuple(models), tuple(pairs), tuple(shown)


def upstream_of_all(mine: Mapping[str, Manifest]) -> list[Manifest]:
    """The manifests of a run, producers first."""
    by_key = {manifest.key: manifest for manifest in mine.values()}
    return list(upstream(by_key, by_key).values())


def _ordered(record: RunRecord, lineage: Mapping[str, Manifest]) -> list[str]:
    position = {key: number for number, key in enumerate(lineage)}
    return sorted(record.nodes, key=lambda name: position.get(record.nodes[name].key, len(position)))


def _stage(record: RunRecord, name: str, mine: Mapping[str, Manifest]) -> Stage:
    node, manifest = record.nodes[name], mine.get(name)
    made = manifest.provenance.seconds if manifest else 0.0
    return Stage(
        name, node.kind, node.key, str(node.state), node.cached, node.seconds, node.started, made, manifest
    )


def _phase(store: Store, name: str, mine: Mapping[str, Manifest]) -> Phase:
    manifest = mine[name]
    lines = store.open(manifest.ref()).read_bytes("rounds.jsonl").decode().splitlines()
    start = manifest.inputs["model"].key
    after = next((other for other, made in mine.items() if made.key == start and made.kind == "rl"), "")
    weight = float(manifest.recipe.get("length_reward_weight", 0.0))
    return Phase(name, after, weight, tuple(json.loads(line) for line in lines))


def _measure(row: Mapping[str, Any], name: str, value: str = "") -> Measure:
    return Measure(float(row[value or name]), float(row[f"{name}_low"]), float(row[f"{name}_high"]))


def _model(row: Mapping[str, Any], manifest: Manifest) -> Model:
    ref = manifest.inputs.get(MODEL_ROLE + row["name"])
    return Model(
        name=row["name"],
        key=ref.key if ref else "",
        sampled=_measure(row, "sampled"),
        greedy=_measure(row, "greedy"),
        tokens=_measure(row, "tokens"),
        n=int(row["n"]),
        unjudged=int(row["unjudged"]),
        by_task=row["by_task"],
    )


def _pair(row: Mapping[str, Any]) -> Pair:
    sampled, tokens = (_measure(row, name, f"{name}_difference") for name in ("sampled", "tokens"))
    return Pair(row["first"], row["second"], sampled, tokens)


def _negated(measure: Measure) -> Measure:
    return Measure(-measure.value, -measure.high, -measure.low)
