"""Responses sampled to their end, where a phase may not cut them: evaluation, rejection sampling."""

from collections.abc import Sequence

from k15.ports import Sampler
from k15.records import End, SampleRequest, Segment


def whole_responses(
    sampler: Sampler, requests: Sequence[SampleRequest], *, deadline_s: float
) -> list[list[Segment]]:
    """Each request's segments, in the requests' order; TimeoutError where the deadline cut one."""
    answers = dict(sampler.sample(requests, deadline_s=deadline_s))
    cut = sum(
        segment.end is End.BUDGET and len(segment.token_ids) < request.max_tokens
        for index, request in enumerate(requests)
        for segment in answers[index]
    )
    if cut:
        raise TimeoutError(
            f"{cut} responses had not ended after {deadline_s:.0f} s: give fewer prompts a call"
        )
    return [answers[index] for index in range(len(requests))]
