"""Requests to sample, and their answers in order."""

import random
from collections.abc import Sequence

from k15.ports import Sampler
from k15.records import SampleRequest, Segment
from tests.engines.conftest import VOCAB


def some_requests(
    seed: int, *, num: int = 16, num_samples: int = 4, max_tokens: int = 40
) -> list[SampleRequest]:
    draw = random.Random(seed)
    prompts = [tuple(draw.randrange(2, VOCAB) for _ in range(draw.randint(1, 40))) for _ in range(num)]
    return [
        SampleRequest(prompt, max_tokens, num_samples, seed=index * num_samples)
        for index, prompt in enumerate(prompts)
    ]


def sampled(
    sampler: Sampler, requests: Sequence[SampleRequest], *, deadline_s: float = 60.0
) -> list[list[Segment]]:
    answers = dict(sampler.sample(requests, deadline_s=deadline_s))
    assert sorted(answers) == list(range(len(requests)))
    return [answers[index] for index in range(len(requests))]


def tokens_of(answers: Sequence[Sequence[Segment]]) -> list[list[tuple[int, ...]]]:
    return [[segment.token_ids for segment in segments] for segments in answers]
