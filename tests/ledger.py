"""An RL stage's prompts and tokens, counted in the store and held against what its samplers wrote down.

Each sampler writes every token down as it draws it (k15.engines.vllm.ledger), before anybody else has it. So
what was drawn is known, whoever was killed when: each of these tokens is in the commit of a round, or the
commit of the round says that so many were lost, and why.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from k15.algo.sampling import uniform
from k15.loops.seeds import response_seed
from k15.store.job import Job
from k15.store.rollouts import GROUPS_FILE, SEGMENTS_FILE
from k15.store.tables import decode_table
from tests.rl_stage import RlStage, prompts

Place = tuple[int, int, int]  # round, group, sample
Token = tuple[int, int, int]  # group, sample, tokens of the response before it
Drawn = tuple[int, int]  # policy version, token


@dataclass
class Watch:
    """What was ever seen in the store, and what was done to it."""

    stored: dict[Place, list[int]] = field(default_factory=dict)  # tokens of segments in journals
    done: list[tuple[str, str, int]] = field(default_factory=list)
    changed: int = 0  # tokens stored anew with another content
    survived: int = 0  # losses of the store that a stage got over by itself

    def look(self, rl: RlStage, job: Job) -> None:
        """Take note of the journals as they are."""
        paths = [info.path for info in rl.store.objects.list(f"phases/{job.key}/")]
        found = rl.store.objects.get_many([path for path in paths if path.endswith(".parquet")])
        for data in found.values():
            for row in decode_table(data).to_pylist():
                place = (row["round"], row["group"], row["sample"])
                if self.stored.setdefault(place, row["token_ids"]) != row["token_ids"]:
                    self.changed += len(row["token_ids"])


@dataclass(frozen=True)
class Round:
    """What a commit says that tokens are counted by."""

    number: int
    version: int  # of the policy that sampled in it
    segments: Sequence[Mapping[str, Any]]
    groups: Sequence[Mapping[str, Any]]
    trained: Sequence[int]  # groups
    lost: Sequence[Mapping[str, Any]]


def account(rl: RlStage, job: Job, watch: Watch) -> dict[str, float]:
    """Prompts of the frontier, and every token: in its round's commit, and with a fate."""
    records = rl.rounds(job)
    rounds = [
        Round(
            record.number,
            record.state["version"],
            rl.table(record, SEGMENTS_FILE),
            rl.table(record, GROUPS_FILE),
            [group for group, _ in record.state["trained"]],
            record.state["lost"],
        )
        for record in records
    ]
    state = records[-1].state["replay"]
    ids = [prompt.id for prompt in prompts()]
    order = uniform(len(ids), start=0, count=sum(state["frontiers"]), seed=job.recipe["seed"])
    waiting = {group for group, _ in state["open_groups"]} | {group for group, *_ in state["buffer"]}
    posed = Counter(ids[position] for position in order)
    kept = kept_tokens(rounds, posed, waiting, watch, uses=job.recipe["group_uses"])
    drawn = read_ledger(rl.ledger(job), job.recipe["seed"], job.recipe["samples_per_prompt"])
    against = reconcile(rounds, drawn)
    unaccounted = kept.pop("tokens_unaccounted") + against.pop("tokens_unaccounted")
    return {**kept, **against, "tokens_unaccounted": unaccounted}


def kept_tokens(
    rounds: Sequence[Round], posed: "Counter[str]", waiting: set[int], watch: Watch, *, uses: int
) -> dict[str, float]:
    """Prompts and tokens as the commits tell of them."""
    taken: dict[int, str] = {}
    fate: dict[int, str] = {}
    committed: dict[Place, list[int]] = {}
    positions: Counter[tuple[int, int]] = Counter()
    misplaced = 0
    for one in rounds:
        for row in one.groups:
            taken[row["group"]], fate[row["group"]] = row["prompt_id"], row["fate"]
        for row in one.segments:
            committed[row["round"], row["group"], row["sample"]] = row["token_ids"]
            misplaced += len(row["token_ids"]) * (row["position"] != positions[row["group"], row["sample"]])
            positions[row["group"], row["sample"]] += 1
    found = Counter(taken.values())
    trained = Counter(group for one in rounds for group in one.trained)
    too_often = sum(times > uses for times in trained.values())
    untrained = [
        group for group, name in fate.items() if name in ("trained", "uniform") and not trained[group]
    ]
    lost = [tokens for place, tokens in watch.stored.items() if committed.get(place) != tokens]
    fateless = [tokens for (_, group, _), tokens in committed.items() if group not in fate]
    ended = {"trained", "uniform", "dropped"}
    nowhere = [group for group, name in fate.items() if name not in ended and group not in waiting]
    by_fate: Counter[str] = Counter()
    for (_, group, _), tokens in committed.items():
        by_fate[fate.get(group, "none")] += len(tokens)
    bad = sum(map(len, [*lost, *fateless])) + misplaced + len(nowhere) + len(untrained)
    return {
        "prompts_skipped": float((posed - found).total()),
        "prompts_twice": float((found - posed).total() + too_often),
        "tokens_unaccounted": float(bad),
        "tokens_lost_after_stored": float(sum(map(len, lost)) + watch.changed),
        "tokens_committed": float(sum(map(len, committed.values()))),
        "tokens_seen_in_journals": float(sum(map(len, watch.stored.values()))),
        **{f"tokens_{name}": float(count) for name, count in sorted(by_fate.items())},
    }


def reconcile(rounds: Sequence[Round], drawn: Mapping[Token, Sequence[Drawn]]) -> dict[str, float]:
    """Every token that an engine drew, against the commits: kept once, or within what a round calls lost."""
    kept: dict[Token, tuple[Drawn, int]] = {}
    lengths: Counter[tuple[int, int]] = Counter()
    for one in rounds:
        for row in one.segments:
            response = (row["group"], row["sample"])
            for token in row["token_ids"]:
                kept[*response, lengths[response]] = (row["policy_version"], token), one.number
                lengths[response] += 1
    of_version = {one.version: one.number for one in reversed(rounds)}
    excess: dict[int, Counter[tuple[int, int]]] = defaultdict(Counter)  # by round and response
    never_drawn = sum(drawn_as not in drawn.get(token, ()) for token, (drawn_as, _) in kept.items())
    otherwise = 0  # drawn again by the same policy, and not the same
    for token, times in drawn.items():
        expected, number = kept.get(token, (None, -1))
        rest = list(times)
        if expected in rest:
            rest.remove(expected)
        for version, value in rest:
            otherwise += expected is not None and version == expected[0] and value != expected[1]
            excess[number if number >= 0 else of_version.get(version, -1)][token[:2]] += 1
    unaccounted = never_drawn
    for number, responses in excess.items():
        said = [entry for one in rounds if one.number == number for entry in one.lost]
        most = sum(entry["tokens_at_most"] for entry in said)
        unaccounted += max(0, responses.total() - most)
        unaccounted += max(0, len(responses) - sum(entry["responses"] for entry in said))
    return {
        "tokens_unaccounted": float(unaccounted),
        "tokens_drawn": float(sum(map(len, drawn.values()))),
        "tokens_drawn_again": float(sum(responses.total() for responses in excess.values())),
        "tokens_drawn_otherwise": float(otherwise),
        "responses_called_lost": float(sum(entry["responses"] for one in rounds for entry in one.lost)),
    }


def read_ledger(folder: Path, run_seed: int, k: int) -> dict[Token, list[Drawn]]:
    """What the samplers of a stage drew; the last line of one that was killed may be torn."""
    first = response_seed(run_seed, 0)
    drawn: dict[Token, list[Drawn]] = defaultdict(list)
    for line in _lines(folder):
        version, seed, place, token = map(int, line.split())
        group, sample = divmod(seed - first, k)
        drawn[group, sample, place].append((version, token))
    return drawn


def _lines(folder: Path) -> Iterable[str]:
    for path in sorted(folder.glob("*")):
        yield from path.read_text().split("\n")[:-1]
