"""The RL loop over fakes of the ports: partial rollouts, resumption, rewards, the mismatch gate."""

import math
import operator
import random
from dataclasses import replace

import pytest

from k15.loops.rl import learning_rate, train_again
from k15.records import Status, Verdict
from tests.loops.fakes import RecordingTrainer, SeededSampler, history_of, phase, play, recipe


def test_every_prompt_is_taken_once_per_epoch():
    made = phase(recipe(rounds=9, prompts_per_round=1))
    play(made)
    assert sorted(group.prompt_id for group in made.trainer.groups) == sorted(made.actors.prompts)


def test_unfinished_responses_are_continued_with_the_tokens_they_have():
    made = phase(recipe(rounds=12, phase_token_budget=4))
    play(made)
    whole = phase(recipe(rounds=12))
    play(whole)
    budgeted = {(g.prompt_id, g.sequences) for g in made.trainer.groups}
    assert budgeted <= {(g.prompt_id, g.sequences) for g in whole.trainer.groups}
    assert any(request.prefix for request in made.actors.sampler.asked)


def test_only_tokens_of_the_policy_at_hand_are_compared_with_the_trainer():
    made = phase(recipe(rounds=12, phase_token_budget=4))
    play(made)
    values = [value for group in made.trainer.groups for row in group.logprobs for value in row]
    older = sum(math.isnan(value) for value in values)
    assert 0 < older < len(values)
    assert {value for value in values if not math.isnan(value)} == {-0.5}
    whole = phase(recipe(rounds=12))
    play(whole)
    assert not any(math.isnan(v) for group in whole.trainer.groups for row in group.logprobs for v in row)


def test_groups_wait_for_all_their_samples():
    made = phase(recipe(rounds=12, phase_token_budget=4))
    play(made)
    assert all(len(group.sequences) == 3 for group in made.trainer.groups)


def test_only_what_the_policy_at_hand_sampled_enters_the_loss_when_asked():
    made = phase(recipe(rounds=8, phase_token_budget=4, loss_segments="newest"))
    _, rounds = play(made)
    values = [value for group in made.trainer.groups for row in group.logprobs for value in row]
    assert values and not any(math.isnan(value) for value in values)  # NaN: of an older policy
    in_loss = [sum(row.in_loss) for group in made.trainer.groups for row in group.sequences]
    assert min(in_loss) == 0  # it ended rounds before its siblings, and still counts in the baseline
    assert all(played.row["share_stale"] == 0 for played in rounds)
    everything = phase(recipe(rounds=8, phase_token_budget=4))
    _, rounds = play(everything)
    assert [(g.prompt_id, g.rewards) for g in everything.trainer.groups] == [
        (g.prompt_id, g.rewards) for g in made.trainer.groups
    ]
    stale = sum(math.isnan(value) for g in everything.trainer.groups for row in g.logprobs for value in row)
    tokens = sum(len(row) for g in everything.trainer.groups for row in g.logprobs)
    trained = [sum(sum(row.in_loss) for g in r for row in g.sequences) for r in by_round(everything, rounds)]
    shares = [played.row["share_stale"] for played in rounds]
    assert sum(map(operator.mul, trained, shares)) / tokens == pytest.approx(stale / tokens)


def by_round(made, rounds):
    """The training groups of each round."""
    groups = iter(made.trainer.groups)
    return [[next(groups) for _ in range(int(played.row["num_groups"]))] for played in rounds]


def test_a_resumed_phase_asks_exactly_what_the_uninterrupted_one_did():
    settings = recipe(rounds=6, phase_token_budget=5)
    whole = phase(settings)
    end, _ = play(whole)
    first = phase(settings)
    middle, rounds = play(first, stop_after=3)
    state = history_of(rounds).state()
    assert state == middle
    second = phase(settings, sampler=SeededSampler(version=state.policy_version))
    resumed, _ = play(second, state)
    assert first.actors.sampler.asked + second.actors.sampler.asked == whole.actors.sampler.asked
    assert replace(resumed, seconds=0.0) == replace(end, seconds=0.0)


def test_an_unjudged_response_leaves_its_group_and_never_scores_zero():
    generator = random.Random(0)

    def judge(prompt, text):
        return Verdict(Status.UNJUDGED, "judge down") if generator.random() < 0.4 else Verdict(Status.CORRECT)

    made = phase(recipe(), judge=judge)
    state, rounds = play(made)
    assert sum(played.row["unjudged"] for played in rounds) > 0
    assert all(reward == 1.0 for group in made.trainer.groups for reward in group.rewards)
    assert all(len(group.sequences) == len(group.rewards) >= 2 for group in made.trainer.groups)
    assert all(correct == judged for correct, judged in state.success.values())


def test_the_length_reward_starts_at_its_round():
    made = phase(recipe(rounds=4, prompts_per_round=2, length_reward_weight=0.5, length_reward_from_round=2))
    play(made)
    plain, shaped = made.trainer.groups[:4], made.trainer.groups[4:]
    assert all(reward in (0.0, 1.0) for group in plain for reward in group.rewards)
    assert any(reward not in (0.0, 1.0) for group in shaped for reward in group.rewards)


def test_a_mismatch_above_the_limit_stops_the_round_with_an_explanation():
    made = phase(recipe(), trainer=RecordingTrainer(mismatch=0.2))
    with pytest.raises(RuntimeError, match="mismatch_limit"):
        play(made)


def test_a_mismatch_is_seen_before_the_update_and_where_there_is_none():
    made = phase(recipe(), trainer=RecordingTrainer(probed=0.2))
    with pytest.raises(RuntimeError, match=r"differ by 2.00e-01 .* above mismatch_limit"):
        play(made)
    assert made.trainer.groups == []
    made = phase(recipe(rounds=1, phase_token_budget=1), trainer=RecordingTrainer(probed=0.005))
    _, (played,) = play(made)  # nothing is finished in it
    assert made.trainer.groups == []
    assert played.row["mismatch_tokens"] == 4  # a token of each group, and none of an update
    assert played.row["mismatch_mean"] == pytest.approx(0.005)


def test_prioritized_sampling_prefers_what_fails():
    def judge(prompt, text):
        failed = prompt.id == "p0" and "boxed" not in text
        return Verdict(Status.WRONG if failed else Status.CORRECT)

    made = phase(
        recipe(rounds=60, prompts_per_round=1, sampler="prioritized", priority_floor=0.01), judge=judge
    )
    play(made)
    taken = [group.prompt_id for group in made.trainer.groups]
    assert taken.count("p0") > 20


def test_the_rate_warms_up_over_rounds():
    rates = [learning_rate(recipe(lr_warmup_rounds=4), n) for n in range(6)]
    assert rates == pytest.approx([2.5e-5, 5e-5, 7.5e-5, 1e-4, 1e-4, 1e-4])


def test_updates_whose_weights_were_not_stored_are_made_up_from_stored_groups():
    made = phase(recipe(rounds=6, phase_token_budget=6))
    _, rounds = play(made)
    history = history_of(rounds)
    again = [(p.number, p.version, history.trained(p.number)) for p in rounds if p.trained]
    twin = phase(made.recipe)
    train_again(twin, again, rounds[-1].after.policy_version)
    assert twin.actors.sampler.asked == []
    assert repr(twin.trainer.groups) == repr(made.trainer.groups)
    assert twin.trainer.rates == made.trainer.rates
    assert twin.actors.sampler.version == rounds[-1].after.policy_version


def test_a_sampler_with_another_version_is_refused():
    with pytest.raises(RuntimeError, match="holds version 7 of the policy, this round is of 0"):
        play(phase(recipe(), sampler=SeededSampler(version=7)))


def test_a_phase_ends_by_rule_and_says_why():
    never_better = phase(
        recipe(rounds=40, stop_without_gain_rounds=2), judge=lambda p, t: Verdict(Status.CORRECT)
    )
    state, rounds = play(never_better)
    assert len(rounds) == 4 and "no gain" in state.stopped
    assert [played.last for played in rounds] == [False] * 3 + [True]
    state, rounds = play(phase(recipe(rounds=40, stop_after_tokens=200)))
    assert state.sampled_tokens >= 200 > state.sampled_tokens - rounds[-1].row["sampled_tokens"]
    assert state.stopped.startswith("budget: ")
    state, rounds = play(phase(recipe(rounds=40, stop_after_hours=1e-9)))
    assert len(rounds) == 1 and "hours" in state.stopped
    assert play(phase(recipe(rounds=2)))[0].stopped == ""


def test_figures_tell_tasks_and_difficulties_apart_and_the_age_of_tokens():
    _, rounds = play(phase(recipe(rounds=9, phase_token_budget=4)))
    row = rounds[-1].row
    assert {"pass_rate/task0", "pass_rate/task1"} & set(row)
    assert any(name.startswith("pass_rate/difficulty_") for name in row)
    ages = [row[f"staleness/{age}"] for age in ("0", "1", "2", "3", "4_or_more")]
    assert sum(ages) == pytest.approx(1) and ages[0] < 1
    assert all(math.isfinite(value) for played in rounds for value in played.row.values())
    assert row["tokens_p10"] <= row["tokens_p50"] <= row["tokens_p99"] <= row["tokens_max"]
