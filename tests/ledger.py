"""An RL stage's prompts and tokens, counted in the store: what was taken, stored, committed, and its fate."""

from collections import Counter
from dataclasses import dataclass, field

from k15.algo.sampling import uniform
from k15.store.job import Job
from k15.store.rollouts import GROUPS_FILE, SEGMENTS_FILE
from k15.store.tables import decode_table
from tests.rl_stage import RlStage, prompts

Place = tuple[int, int, int]  # round, group, sample


@dataclass
class Watch:
    """What was ever seen in the store, and what was done to it."""

    stored: dict[Place, list[int]] = field(default_factory=dict)  # tokens of segments in journals
    done: list[tuple[str, str, int]] = field(default_factory=list)
    changed: int = 0  # tokens stored anew with another content

    def look(self, rl: RlStage, job: Job) -> None:
        """Take note of the journals as they are."""
        paths = [info.path for info in rl.store.objects.list(f"phases/{job.key}/")]
        found = rl.store.objects.get_many([path for path in paths if path.endswith(".parquet")])
        for data in found.values():
            for row in decode_table(data).to_pylist():
                place = (row["round"], row["group"], row["sample"])
                if self.stored.setdefault(place, row["token_ids"]) != row["token_ids"]:
                    self.changed += len(row["token_ids"])


def account(rl: RlStage, job: Job, watch: Watch) -> dict[str, float]:
    """Prompts of the frontier, and every token: in its round's commit, and with a fate."""
    rounds = rl.rounds(job)
    taken: dict[int, str] = {}
    fate: dict[int, str] = {}
    committed: dict[Place, list[int]] = {}
    positions: Counter[tuple[int, int]] = Counter()
    misplaced = 0
    for record in rounds:
        for row in rl.table(record, GROUPS_FILE):
            taken[row["group"]] = row["prompt_id"]
            fate[row["group"]] = row["fate"]
        for row in rl.table(record, SEGMENTS_FILE):
            committed[row["round"], row["group"], row["sample"]] = row["token_ids"]
            misplaced += len(row["token_ids"]) * (row["position"] != positions[row["group"], row["sample"]])
            positions[row["group"], row["sample"]] += 1
    state = rounds[-1].state["replay"]
    ids = [prompt.id for prompt in prompts()]
    order = uniform(len(ids), start=0, count=sum(state["frontiers"]), seed=job.recipe["seed"])
    expected = Counter(ids[position] for position in order)
    found = Counter(taken.values())
    lost = [tokens for place, tokens in watch.stored.items() if committed.get(place) != tokens]
    fateless = [tokens for (_, group, _), tokens in committed.items() if group not in fate]
    waiting = {group for group, _ in state["open_groups"]} | {group for group, *_ in state["buffer"]}
    ended = {"trained", "uniform", "dropped"}
    nowhere = [group for group, name in fate.items() if name not in ended and group not in waiting]
    by_fate: Counter[str] = Counter()
    for (_, group, _), tokens in committed.items():
        by_fate[fate.get(group, "none")] += len(tokens)
    again = [entry for record in rounds for entry in record.state["lost"]]
    return {
        "prompts_skipped": float((expected - found).total()),
        "prompts_twice": float((found - expected).total()),
        "tokens_unaccounted": float(sum(map(len, [*lost, *fateless])) + misplaced + len(nowhere)),
        "tokens_lost_after_stored": float(sum(map(len, lost)) + watch.changed),
        "tokens_committed": float(sum(map(len, committed.values()))),
        "tokens_seen_in_journals": float(sum(map(len, watch.stored.values()))),
        **{f"tokens_{name}": float(count) for name, count in sorted(by_fate.items())},
        "responses_sampled_again": float(sum(entry["responses"] for entry in again)),
    }
