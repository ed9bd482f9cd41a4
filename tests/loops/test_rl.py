"""The RL loop over fakes of the ports: partial rollouts, resumption, rewards, the mismatch gate."""

import math
import random
from dataclasses import dataclass, field

import pytest

from k15.loops.replay import ReplayState
from k15.loops.rl import Phase, learning_rate, run_phase
from k15.recipes.rl import RlRecipe
from k15.records import (
    End,
    Group,
    Part,
    Prompt,
    Segment,
    Status,
    UpdateStats,
    Verdict,
    WeightSource,
    WeightTicket,
)

ALPHABET = 97


@dataclass
class SeededSampler:
    """Each response is a fixed function of its prompt and sample, cut wherever the budget says."""

    version: int = 0
    asked: list = field(default_factory=list)

    def sample(self, requests, *, deadline_s):
        self.asked += requests
        for index, request in reversed(list(enumerate(requests))):
            yield index, [self._segment(request, k) for k in range(request.num_samples)]

    def _segment(self, request, k):
        first = request.prompt_token_ids[0] * 31
        if request.prefix:
            k = (request.prefix[0] - 1 - first) % ALPHABET // 7
        whole = [1 + (first + 7 * k + i) % ALPHABET for i in range(request.prompt_token_ids[1] + k)]
        rest = whole[len(request.prefix) :]
        taken = rest[: request.max_tokens]
        end = End.STOP if len(taken) == len(rest) else End.BUDGET
        return Segment(self.version, tuple(taken), (-0.5,) * len(taken), end)

    def update(self, ticket, *, deadline_s):
        self.version = ticket.version


@dataclass
class RecordingTrainer:
    """Keeps what it was asked to learn from."""

    mismatch: float = 0.0
    groups: list[Group] = field(default_factory=list)

    def policy_update(self, groups, *, settings, lr):
        self.groups += groups
        return UpdateStats(2, 0.0, 1.0, 10, self.mismatch, self.mismatch, 0.0)

    def publish(self, version, *, deadline_s):
        return WeightTicket(version, 0, 0, WeightSource("shared_memory", "nowhere"))


def recipe(**over):
    base = {
        "rounds": 5,
        "prompts_per_round": 4,
        "samples_per_prompt": 3,
        "max_response_tokens": 16,
        "phase_token_budget": 16,
    }
    return RlRecipe.parse({**base, **over}, where="test")


def phase(settings, *, judge=None, trainer=None, sampler=None):
    prompts = {f"p{i}": Prompt(f"p{i}", (Part("text", f"{i}"),), "1", "t", 0.5, "r") for i in range(9)}
    return Phase(
        settings,
        prompts,
        trainer or RecordingTrainer(),
        sampler or SeededSampler(),
        lambda prompt: (int(prompt.text) + 1, 3 + int(prompt.text)),
        lambda ids: " ".join(map(str, ids)),
        judge or (lambda prompt, text: Verdict(Status.CORRECT if len(text.split()) % 2 else Status.WRONG)),
    )


def play(made, state=None, stop_after=None):
    rounds = []

    def commit(after, row, examples, clock):
        rounds.append((after, row, clock.read()))

    stopping = (lambda: len(rounds) >= stop_after) if stop_after else (lambda: False)
    return run_phase(made, state or ReplayState(), commit=commit, stopping=stopping), rounds


def test_every_prompt_is_taken_once_per_epoch():
    made = phase(recipe(rounds=9, prompts_per_round=1))
    play(made)
    assert sorted(group.prompt_id for group in made.trainer.groups) == sorted(made.prompts)


def test_unfinished_responses_are_continued_with_the_tokens_they_have():
    made = phase(recipe(rounds=12, phase_token_budget=4))
    play(made)
    whole = phase(recipe(rounds=12))
    play(whole)
    budgeted = {(g.prompt_id, g.sequences) for g in made.trainer.groups}
    assert budgeted <= {(g.prompt_id, g.sequences) for g in whole.trainer.groups}
    assert any(request.prefix for request in made.sampler.asked)


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


def test_only_the_newest_segment_enters_the_loss_when_asked():
    made = phase(recipe(rounds=8, phase_token_budget=4, loss_segments="newest"))
    play(made)
    in_loss = [sum(sequence.in_loss) for group in made.trainer.groups for sequence in group.sequences]
    assert max(in_loss) <= 4


def test_a_resumed_phase_asks_exactly_what_the_uninterrupted_one_did():
    settings = recipe(rounds=6, phase_token_budget=5)
    whole = phase(settings)
    end, _ = play(whole)
    first = phase(settings)
    middle, _ = play(first, stop_after=3)
    second = phase(settings, sampler=SeededSampler(version=3))
    resumed, _ = play(second, ReplayState.from_json(middle.to_json()))
    assert first.sampler.asked + second.sampler.asked == whole.sampler.asked
    assert resumed == end


def test_an_unjudged_response_leaves_its_group_and_never_scores_zero():
    generator = random.Random(0)

    def judge(prompt, text):
        return Verdict(Status.UNJUDGED, "judge down") if generator.random() < 0.4 else Verdict(Status.CORRECT)

    made = phase(recipe(), judge=judge)
    state, rounds = play(made)
    assert sum(row["unjudged"] for _, row, _ in rounds) > 0
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


def test_prioritized_sampling_prefers_what_fails():
    def judge(prompt, text):
        return Verdict(Status.WRONG if prompt.id == "p0" else Status.CORRECT)

    made = phase(
        recipe(rounds=60, prompts_per_round=1, sampler="prioritized", priority_floor=0.01), judge=judge
    )
    play(made)
    taken = [group.prompt_id for group in made.trainer.groups]
    assert taken.count("p0") > 20


def test_the_rate_warms_up_over_rounds():
    rates = [learning_rate(recipe(lr_warmup_rounds=4), n) for n in range(6)]
    assert rates == pytest.approx([2.5e-5, 5e-5, 7.5e-5, 1e-4, 1e-4, 1e-4])
