"""Sampling as a service: what a response depends on, warm prefixes, deadlines, answers as they come."""

import itertools
import random
import threading
import time
from dataclasses import replace

import pytest
import torch

from k15.engines.service.calls import call
from k15.engines.service.client import RemoteSampler
from k15.engines.service.messages import Health, HealthCall
from k15.engines.service.process import Service
from k15.engines.shared_memory import SharedMemorySender
from k15.records import End, SampleRequest, Segment
from tests.engines.responses import sampled, some_requests, tokens_of
from tests.engines.test_vllm import Reference, channel

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def one_by_one(requests: list[SampleRequest]) -> list[SampleRequest]:
    """A request for every sample."""
    return [replace(r, num_samples=1, seed=r.seed + j) for r in requests for j in range(r.num_samples)]


def flat(answers: list[list[Segment]]) -> list[Segment]:
    return [segment for segments in answers for segment in segments]


def test_a_response_depends_on_its_seed_and_its_tokens_and_on_nothing_else(
    untied_sampler: RemoteSampler,
) -> None:
    requests = some_requests(9)
    told = flat(sampled(untied_sampler, requests))
    alone = one_by_one(requests)
    order = random.Random(1).sample(range(len(alone)), len(alone))
    shuffled = flat(sampled(untied_sampler, [alone[i] for i in order]))
    assert [told[i].token_ids for i in order] == [segment.token_ids for segment in shuffled]
    apart = [flat(sampled(untied_sampler, [request]))[0] for request in alone[:8]]
    assert [segment.token_ids for segment in apart] == [segment.token_ids for segment in told[:8]]
    for one, other in zip(apart, told, strict=False):
        assert torch.allclose(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4)
    other = sampled(untied_sampler, [replace(r, seed=r.seed + 1000) for r in requests])
    assert not set(flat(tokens_of(other))) & {s.token_ids for s in told if len(s.token_ids) > 3}


def test_a_sampled_continuation_with_the_same_seed_equals_the_uninterrupted_run(
    untied_sampler: RemoteSampler,
) -> None:
    requests = one_by_one(some_requests(21))
    whole = flat(sampled(untied_sampler, requests))
    first = flat(sampled(untied_sampler, [replace(request, max_tokens=17) for request in requests]))
    cut = [i for i, segment in enumerate(first) if segment.end is End.BUDGET]
    assert len(cut) > 20
    rest = flat(
        sampled(untied_sampler, [replace(requests[i], prefix=first[i].token_ids, max_tokens=23) for i in cut])
    )
    for i, segment in zip(cut, rest, strict=True):
        assert first[i].token_ids + segment.token_ids == whole[i].token_ids
        assert segment.end is whole[i].end


def test_continued_responses_find_their_prefix_until_the_weights_change(
    learning_sampler: RemoteSampler, untied_model
) -> None:
    reference = Reference(untied_model)
    sender = channel(learning_sampler, reference)
    learning_sampler.update(sender.send(reference.tensors(), 200, deadline_s=10), deadline_s=10)
    requests = [replace(r, max_tokens=40) for r in one_by_one(some_requests(31, num=8))]

    def prefix_hit_share() -> float:
        first = flat(sampled(learning_sampler, requests))
        assert learning_sampler.stats.num_continued_tokens == 0
        assert learning_sampler.stats.num_tokens == sum(len(s.token_ids) for s in first)
        cut = [i for i, segment in enumerate(first) if segment.end is End.BUDGET]
        again = [replace(requests[i], prefix=first[i].token_ids, max_tokens=5) for i in cut]
        if update:
            ticket = sender.send(reference.tensors(), 201, deadline_s=10)
            learning_sampler.update(ticket, deadline_s=10)
        sampled(learning_sampler, again)
        stats = learning_sampler.stats
        assert stats.num_continued_tokens == sum(len(r.prompt_token_ids) + len(r.prefix) for r in again)
        assert stats.num_tokens <= 5 * len(again)
        return stats.prefix_hit_share

    update = False
    assert prefix_hit_share() > 0.6  # whole blocks of 32 of 41 to 80 tokens
    update = True
    assert prefix_hit_share() < 0.3  # prompts that the samples of a group share


def test_the_deadline_ends_what_runs_and_keeps_its_tokens(untied_sampler: RemoteSampler) -> None:
    many = some_requests(11, num=200, num_samples=8, max_tokens=80)
    answers = [s for segments in sampled(untied_sampler, many, deadline_s=0.5) for s in segments]
    assert len(answers) == 1600
    assert all(len(segment.logprobs) == len(segment.token_ids) for segment in answers)
    cut = [s for s in answers if s.end is End.BUDGET and len(s.token_ids) < 80]
    assert any(segment.token_ids for segment in cut)
    assert any(not segment.token_ids for segment in cut)
    assert len(sampled(untied_sampler, some_requests(12))) == 16
    assert sampled(untied_sampler, []) == []


def test_a_request_is_answered_when_its_own_samples_ended_and_the_service_answers_meanwhile(
    services: dict[str, Service], untied_sampler: RemoteSampler
) -> None:
    long = [replace(request, max_tokens=80) for request in some_requests(41, num=7, num_samples=8)]
    short = SampleRequest((5, 6, 7), 2, 2)
    started = time.monotonic()
    answers = untied_sampler.sample([*long, short], deadline_s=60)
    order, first_s = [next(answers)[0]], time.monotonic() - started
    asked = time.monotonic()
    call(services["untied"], "health", HealthCall(), Health, deadline_s=5)
    health_s = time.monotonic() - asked
    order += [index for index, _ in answers]
    assert order[0] == 7
    assert sorted(order) == list(range(8))
    assert first_s < (time.monotonic() - started) / 2
    assert health_s < 1


def test_calls_at_the_same_time_share_the_engine_and_get_their_own_answers(
    untied_sampler: RemoteSampler,
) -> None:
    requests = some_requests(51)
    told = sampled(untied_sampler, requests)
    other = untied_sampler.sample(some_requests(52, num=40, num_samples=8, max_tokens=80), deadline_s=60)
    next(other)
    assert tokens_of(sampled(untied_sampler, requests)) == tokens_of(told)
    assert len(list(other)) == 39


def test_a_caller_that_goes_away_frees_the_engine(untied_sampler: RemoteSampler) -> None:
    many = some_requests(61, num=400, num_samples=8, max_tokens=80)
    answers = untied_sampler.sample(many, deadline_s=600)
    for _ in itertools.islice(answers, 2):
        pass
    answers.close()
    started = time.monotonic()
    sampled(untied_sampler, some_requests(62))
    assert time.monotonic() - started < 5


def test_weights_wait_for_the_end_of_the_phase_and_do_not_go_back(
    learning_sampler: RemoteSampler, untied_model
) -> None:
    reference = Reference(untied_model)
    sender = channel(learning_sampler, reference)
    learning_sampler.update(sender.send(reference.tensors(), 205, deadline_s=10), deadline_s=10)
    older = SharedMemorySender(reference.layout()).send(reference.tensors(), 204, deadline_s=10)
    with pytest.raises(ValueError, match="version 204 of the weights goes back: 205 is served"):
        learning_sampler.update(older, deadline_s=10)
    running = threading.Event()

    def consume() -> None:
        for _ in learning_sampler.sample(some_requests(71, num=200, num_samples=8), deadline_s=60):
            running.set()

    thread = threading.Thread(target=consume)
    thread.start()
    assert running.wait(30)
    ticket = sender.send(reference.tensors(), 206, deadline_s=10)
    with pytest.raises(ValueError, match="responses are being sampled"):
        learning_sampler.update(ticket, deadline_s=10)
    thread.join()
    learning_sampler.update(ticket, deadline_s=10)
    assert {s.policy_version for s in flat(sampled(learning_sampler, some_requests(72)))} == {206}
