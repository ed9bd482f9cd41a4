"""An RL phase over fakes of the ports, and what is stored of its rounds, read back."""

import json
from dataclasses import dataclass, field

from k15.loops.history import History
from k15.loops.replay import ReplayState
from k15.loops.rl import Phase, run_phase
from k15.loops.rollout import Actors
from k15.recipes.rl import RlRecipe
from k15.records import (
    End,
    Group,
    Part,
    Prompt,
    SampleStats,
    Segment,
    Status,
    UpdateStats,
    Verdict,
    WeightTicket,
)

ALPHABET = 97
SAMPLES = 3


@dataclass
class SeededSampler:
    """Each response is a fixed function of its prompt and sample, cut wherever the budget says."""

    version: int = 0
    stats: SampleStats = SampleStats()  # noqa: RUF009 (frozen)
    asked: list = field(default_factory=list)

    def sample(self, requests, *, deadline_s):
        self.asked += requests
        for index, request in reversed(list(enumerate(requests))):
            assert request.num_samples == 1
            yield index, [self._segment(request, request.seed % SAMPLES)]

    def _segment(self, request, k):
        first = request.prompt_token_ids[0] * 31
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
    probed: float = 0.0
    groups: list[Group] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def policy_update(self, groups, *, settings, lr):
        self.groups += groups
        self.rates.append(lr)
        return UpdateStats(2, 0.0, 1.0, 10, self.mismatch, self.mismatch, 0.0, {"mismatch_tokens": 10.0})

    def logprobs(self, rows):
        return [[-0.5 + self.probed] * sum(row.in_loss) for row in rows]

    def publish(self, version, *, deadline_s):
        return WeightTicket(version, 0, 0, 0)


def recipe(**over):
    base = {
        "rounds": 5,
        "prompts_per_round": 4,
        "samples_per_prompt": SAMPLES,
        "max_response_tokens": 16,
        "phase_token_budget": 16,
    }
    return RlRecipe.parse({**base, **over}, where="test")


@dataclass
class Journal:
    """What is stored of one phase."""

    tries: int = 0
    asked_again: int = 0
    moved_before: int = 0
    stored: dict = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    def ask(self, num_responses):
        self.asked.append(num_responses)

    def moved(self, num_responses):
        self.moved_before += num_responses

    def add(self, rows):
        self.stored |= {(row.group, row.sample): row.segment for row in rows}


def accepts_odd(prompt, text):
    """Right where an odd number of words is said; the reference is one."""
    return Verdict(Status.CORRECT if len(text.split()) % 2 else Status.WRONG)


def phase(settings, *, judge=accepts_odd, trainer=None, sampler=None, journal=None):
    prompts = {
        f"p{i}": Prompt(f"p{i}", (Part("text", f"{i}"),), "1", f"task{i % 2}", i / 9, "r") for i in range(9)
    }
    actors = Actors(settings, prompts, sampler or SeededSampler(), lambda ids: " ".join(map(str, ids)), judge)
    return Phase(
        actors,
        trainer or RecordingTrainer(),
        lambda prompt: (int(prompt.text) + 1, 3 + int(prompt.text)),
        journal or (lambda number: Journal()),
    )


def play(made, state=None, stop_after=None):
    rounds = []

    def commit(played, clock):
        rounds.append(played)

    stopping = (lambda: len(rounds) >= stop_after) if stop_after else (lambda: False)
    return run_phase(made, state or ReplayState(), commit=commit, stopping=stopping), rounds


@dataclass
class Stored:
    """A committed round, as the store gives it back."""

    number: int
    state: dict
    tables: dict


def history_of(rounds):
    """What is stored of rounds, read back."""
    stored = [
        Stored(p.number, json.loads(json.dumps(p.state())), {n: t for n, t in p.tables().items()})
        for p in rounds
    ]
    return History(stored, lambda record, name: record.tables.get(name))
