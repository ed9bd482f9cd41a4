"""One rollout phase: budgets, deadlines, stragglers, what was stored before a kill, bad groups."""

from collections import Counter
from dataclasses import dataclass

import pytest

from k15.loops.history import Fate
from k15.loops.replay import ReplayState
from k15.records import End, SampleStats, Segment, Status, Verdict
from tests.loops.fakes import Journal, SeededSampler, history_of, phase, play, recipe


@dataclass
class Stuck(SeededSampler):
    """One response of prompt p0 never gets a token by the deadline."""

    def _segment(self, request, k):
        if request.prompt_token_ids[0] == 1 and k == 2:
            return Segment(self.version, (), (), End.BUDGET)
        return super()._segment(request, k)


def responses(rounds, group):
    return [row for played in rounds for row in played.responses if row.group == group]


def fates(rounds):
    """Every group's fates, in order."""
    found = {}
    for played in rounds:
        for row in played.groups:
            found.setdefault(row.group, []).append((row.fate, row.reason))
    return found


def test_a_stuck_response_holds_its_group_for_max_segments_phases_at_most():
    sampler = Stuck()
    made = phase(recipe(rounds=9, prompts_per_round=9, max_segments=4), sampler=sampler)
    _, rounds = play(made)
    (number,) = {row.group for row in rounds[0].groups if row.prompt_id == "p0"}
    rows = responses(rounds, number)
    assert [row.end for row in rows] == ["stop", "stop", "given_up"]
    assert rows[2].status == "unjudged" and "given up after 4 phases" in rows[2].reason
    assert [fate for fate, _ in fates(rounds)[number]] == ["open"] * 3 + ["trained"]
    (trained,) = [g for g in made.trainer.groups if g.prompt_id == "p0"][:1]
    assert len(trained.rewards) == 2
    resumed = phase(made.recipe, sampler=Stuck(version=2))
    _, later = play(resumed, history_of(rounds[:2]).state())
    assert [row.end for row in responses(later, number)] == ["stop", "stop", "given_up"]


def test_a_group_need_not_wait_for_all_its_responses():
    settings = recipe(
        rounds=1, prompts_per_round=9, phase_token_budget=8, max_response_tokens=64, min_finished=2
    )
    _, rounds = play(phase(settings))
    given_up = [row for row in rounds[0].responses if row.end == "given_up"]
    assert given_up and all(row.status == "unjudged" for row in given_up)
    counts = Counter(row.group for row in given_up)
    assert set(counts.values()) == {1}
    assert all(played.row["share_given_up"] > 0 for played in rounds)
    assert rounds[0].row["share_unjudged"] == pytest.approx(0)


def test_a_response_with_its_budgets_spent_is_cut_by_length_and_wrong():
    settings = recipe(
        rounds=4, prompts_per_round=9, phase_token_budget=2, max_segments=3, max_response_tokens=60
    )
    _, rounds = play(phase(settings))
    ended = [row for played in rounds for row in played.responses if row.end == "length"]
    assert ended and all((row.num_tokens, row.status) == (6, "wrong") for row in ended)


class Killed(Exception):
    """The process ended."""


@dataclass
class Dying(SeededSampler):
    """Answers a few requests, then dies."""

    answers: int = 6

    def sample(self, requests, *, deadline_s):
        for number, answer in enumerate(super().sample(requests, deadline_s=deadline_s)):
            if number == self.answers:
                raise Killed
            yield answer


def test_a_phase_goes_on_from_what_was_stored_of_it():
    settings = recipe(rounds=3, phase_token_budget=5)
    whole = phase(settings)
    _, expected = play(whole)
    journal = Journal()
    first = phase(settings, sampler=Dying(), journal=lambda number: journal)
    with pytest.raises(Killed):
        play(first)
    assert len(journal.stored) == 6
    journals = {0: Journal(tries=2, asked_again=9, stored=journal.stored)}
    second = phase(settings, journal=lambda number: journals.get(number) or Journal())
    _, rounds = play(second)
    assert [p.segments for p in rounds] == [p.segments for p in expected]
    assert len(second.actors.sampler.asked) == len(whole.actors.sampler.asked) - 6
    assert (journal.asked, journals[0].asked) == ([12], [6])
    assert rounds[0].lost[0]["responses"] == 9 + 6 and not rounds[1].lost


def test_a_phase_that_ends_processes_again_and_again_is_closed_with_what_there_is():
    settings = recipe(rounds=1, max_segments=3)
    made = phase(settings, sampler=Dying(answers=0), journal=lambda number: Journal(tries=6))
    state, rounds = play(made)
    assert all(row.segment.token_ids == () for row in rounds[0].segments)
    assert len(state.open_groups) == 4 and made.trainer.groups == []
    for _ in range(2):
        made = phase(
            recipe(rounds=state.next_round + 1, max_segments=3), journal=lambda number: Journal(tries=6)
        )
        state, rounds = play(made, state)
    dropped = [reason for found in fates(rounds).values() for fate, reason in found if fate == "dropped"]
    assert len(dropped) == 4 and all("an empty group: 0 of 3 judged (given up after 3" in r for r in dropped)


def test_what_the_sampler_did_in_another_phase_is_not_told_of_one_that_asked_nothing():
    sampler = SeededSampler(stats=SampleStats(num_tokens=7, num_moved=3, lost=("a: gone",)))
    _, (played,) = play(phase(recipe(rounds=1), sampler=sampler, journal=lambda number: Journal(tries=6)))
    assert (played.row["engine_tokens"], played.row["replicas_lost"]) == (0, 0)
    assert not any("replicas" in entry["reason"] for entry in played.lost)


def test_a_reference_that_no_judge_accepts_leaves_its_group_unjudged():
    def judge(prompt, text):
        return Verdict(Status.WRONG, "never right") if prompt.id == "p3" else Verdict(Status.CORRECT)

    state, rounds = play(phase(recipe(rounds=3), judge=judge))
    row = next(row for played in rounds for row in played.groups if row.prompt_id == "p3")
    assert row.fate == "dropped" and "no judge accepts the reference '1': never right" in row.reason
    assert state.success["p3"] == (0, 0)


def test_groups_of_equal_rewards_are_named():
    _, rounds = play(phase(recipe(rounds=1), judge=lambda prompt, text: Verdict(Status.CORRECT)))
    assert {(row.fate, row.reason) for row in rounds[0].groups} == {("uniform", "all rewards are equal")}


def test_a_repeating_response_is_wrong_and_may_cost_more():
    class Repeats(SeededSampler):
        def _segment(self, request, k):
            assert request.max_period == 7
            segment = super()._segment(request, k)
            return Segment(*(segment.policy_version, segment.token_ids, segment.logprobs), End.REPEAT)

    made = phase(recipe(rounds=1, repeat_max_period=7, repeat_penalty=0.25), sampler=Repeats())
    _, rounds = play(made)
    assert rounds[0].row["share_repeated"] == 1
    assert {reward for group in made.trainer.groups for reward in group.rewards} == {-0.25}


def test_every_sampled_token_is_accounted_for():
    settings = recipe(
        rounds=9,
        prompts_per_round=5,
        phase_token_budget=5,
        max_segments=3,
        train_groups=2,
        buffer_groups=3,
        max_response_tokens=30,
    )
    made = phase(settings)
    state, rounds = play(made)
    sampled = Counter()
    for played in rounds:
        for row in played.segments:
            sampled[row.group] += len(row.segment.token_ids)
    final = {group: found[-1][0] for group, found in fates(rounds).items()}
    assert set(final) == set(range(state.groups_taken)) == set(sampled)
    trained = sum(count for group, count in sampled.items() if final[group] in (Fate.TRAINED, Fate.UNIFORM))
    assert trained == sum(sum(row.in_loss) for group in made.trainer.groups for row in group.sequences)
    kept = {group.rollouts.number for group in state.buffer} | {group.number for group in state.open_groups}
    assert {group for group, fate in final.items() if fate in (Fate.BUFFERED, Fate.OPEN)} == kept
    assert sum(played.row["sampled_tokens"] for played in rounds) == sum(sampled.values())
    assert ReplayState() == history_of([]).state()
    assert history_of(rounds).state() == state
