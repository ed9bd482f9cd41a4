"""The ledger that decides that nothing is lost or counted twice: it tells each kind of loss apart."""

import copy
from collections import Counter
from typing import Any

import pytest

from tests.ledger import Round, Watch, kept_tokens, reconcile
from tests.loops.fakes import phase, play, recipe

K = 3


def stored(rounds) -> list[Round]:
    """What a phase's commits say."""
    found = []
    for played in rounds:
        tables = {name: table.to_pylist() for name, table in played.tables().items()}
        segments = tables.get("segments.parquet", [])
        trained = [group for group, _ in played.trained]
        found.append(
            Round(played.number, played.version, segments, tables["groups.parquet"], trained, played.lost)
        )
    return found


def drawn_of(rounds: list[Round]) -> dict[Any, Any]:
    """The ledger of samplers that drew what is committed, and nothing else."""
    drawn: dict[Any, Any] = {}
    lengths: Counter[tuple[int, int]] = Counter()
    for one in rounds:
        for row in one.segments:
            response = (row["group"], row["sample"])
            for token in row["token_ids"]:
                drawn[*response, lengths[response]] = [(row["policy_version"], token)]
                lengths[response] += 1
    return drawn


@pytest.fixture
def played():
    """A phase's end and rounds."""
    state, rounds = play(phase(recipe(rounds=6, phase_token_budget=5)))
    return state, stored(rounds)


def count(state, rounds, watch=None):
    """As the commits tell of it."""
    taken = {row["group"]: row["prompt_id"] for one in rounds for row in one.groups}
    waiting = {group.number for group in state.open_groups}
    return kept_tokens(rounds, Counter(taken.values()), waiting, watch or Watch(), uses=1)


def test_a_phase_that_nobody_disturbed_is_accounted_for(played):
    state, rounds = played
    figures = count(state, rounds) | reconcile(rounds, drawn_of(rounds))
    assert figures["tokens_unaccounted"] == figures["prompts_twice"] == figures["tokens_drawn_again"] == 0
    assert figures["tokens_drawn"] == figures["tokens_committed"] > 100


def test_a_group_trained_twice_or_never_is_seen(played):
    state, rounds = played
    number = next(one.number for one in rounds if one.trained)
    twice = copy.deepcopy(rounds)
    twice[-1].trained.append(rounds[number].trained[0])
    assert count(state, twice)["prompts_twice"] == 1
    never = copy.deepcopy(rounds)
    never[number].trained.pop()
    assert count(state, never)["tokens_unaccounted"] == 1


def test_what_was_stored_and_is_committed_otherwise_is_lost(played):
    state, rounds = played
    row = rounds[0].segments[0]
    watch = Watch(stored={(0, row["group"], row["sample"]): [*row["token_ids"], 1]})
    figures = count(state, rounds, watch)
    assert figures["tokens_lost_after_stored"] == len(row["token_ids"]) + 1


def test_tokens_drawn_and_not_kept_count_unless_their_round_calls_them_lost(played):
    _, rounds = played
    drawn = drawn_of(rounds)
    again = [place for place in drawn if place[2] < 3][:2]
    for place in again:
        drawn[place] = drawn[place] * 2
    drawn[999, 0, 0] = [(rounds[2].version, 5)]
    figures = reconcile(rounds, drawn)
    assert figures["tokens_drawn_again"] == 3 and figures["tokens_drawn_otherwise"] == 0
    assert figures["tokens_unaccounted"] >= 3
    entry = {"reason": "killed", "responses": 3, "tokens_at_most": 15}
    said = [Round(r.number, r.version, r.segments, r.groups, r.trained, [entry]) for r in rounds]
    assert reconcile(said, drawn)["tokens_unaccounted"] == 0


def test_a_token_that_nobody_drew_counts(played):
    _, rounds = played
    drawn = drawn_of(rounds)
    place = next(iter(drawn))
    version, token = drawn[place][0]
    drawn[place] = [(version, token + 1)]
    figures = reconcile(rounds, drawn)
    assert figures["tokens_drawn_otherwise"] == 1
    assert figures["tokens_unaccounted"] >= 2  # one that nobody drew, and one that nobody kept
