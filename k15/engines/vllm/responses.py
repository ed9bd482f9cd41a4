"""The responses of one call while they grow: what is open, what a step added, what has ended."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.metrics.stats import PrefillStats

from k15.algo.repeats import Repeats
from k15.engines.vllm.ledger import TokenLedger
from k15.engines.vllm.noise import SEED_FIELD
from k15.records import Answer, End, SampleRequest, SampleStats, Segment

_ENDS = {FinishReason.STOP: End.STOP, FinishReason.LENGTH: End.BUDGET}


@dataclass(slots=True)
class _Response:
    """One sample under way."""

    index: int  # of its request
    sample: int
    repeats: Repeats
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Responses:
    """The samples of one call's requests. Engine requests are named `<call>/<index>/<sample>`."""

    def __init__(
        self, requests: Sequence[SampleRequest], *, call: str, version: int, ledger: TokenLedger | None
    ) -> None:
        self._requests = requests
        self._ledger = ledger
        self._call = call
        self._version = version
        self._open: dict[str, _Response] = {}
        self._ended: list[dict[int, Segment]] = [{} for _ in requests]
        self._complete: list[Answer] = []
        self._counts = Counter[str](num_requests=len(requests))
        self._started = time.monotonic()

    def start(self, stop_token_ids: list[int], *, engine_seeds: bool) -> Iterator[EngineCoreRequest]:
        """An engine request for every sample, to be run in this order."""
        for index, request in enumerate(self._requests):
            tokens = [*request.prompt_token_ids, *request.prefix]
            for sample in range(request.num_samples):
                name = f"{self._call}/{index}/{sample}"
                self._open[name] = _Response(index, sample, Repeats(max_period=request.max_period))
                self._open[name].repeats.feed(request.prefix)
                params = sampling_params(request, sample, stop_token_ids, engine_seeds=engine_seeds)
                yield engine_request(name, tokens, params)

    @property
    def open(self) -> list[str]:
        """The engine requests that have not ended."""
        return list(self._open)

    def add(self, output: EngineCoreOutput) -> bool:
        """Take a step's tokens of one sample; of one that is not open, nothing.

        Whether it repeats itself: then it has ended here (End.REPEAT), and the engine is to stop it.
        """
        response = self._open.get(output.request_id)
        if response is None:
            return False
        if output.prefill_stats is not None:
            self._count_prefill(response, output.prefill_stats)
        self._extend(response, output)
        if output.finish_reason is not None and output.finish_reason not in _ENDS:
            raise RuntimeError(f"vLLM ended a sample of request {response.index}: {output.finish_reason}")
        end = None if output.finish_reason is None else _ENDS[output.finish_reason]
        if response.repeats.feed(output.new_token_ids) and end is not End.STOP:
            end = End.REPEAT
        if end is not None:
            self._end(output.request_id, end)
        return end is End.REPEAT

    def cut(self) -> None:
        """End all that is open with the tokens it has (End.BUDGET)."""
        for name in self.open:
            self._end(name, End.BUDGET)

    def take(self) -> list[Answer]:
        """The requests that became complete since the last time."""
        complete, self._complete = self._complete, []
        return complete

    def stats(self) -> SampleStats:
        """What the call did so far."""
        return replace(SampleStats(seconds=time.monotonic() - self._started), **dict[str, Any](self._counts))

    def _count_prefill(self, response: _Response, prefill: PrefillStats) -> None:
        self._counts["num_prompt_tokens"] += prefill.num_prompt_tokens
        self._counts["num_cached_tokens"] += prefill.num_cached_tokens
        if self._requests[response.index].prefix:
            self._counts["num_continued_tokens"] += prefill.num_prompt_tokens
            self._counts["num_continued_cached_tokens"] += prefill.num_cached_tokens

    def _extend(self, response: _Response, output: EngineCoreOutput) -> None:
        if self._ledger is not None:
            request = self._requests[response.index]
            place = len(request.prefix) + len(response.token_ids)
            self._ledger.note(self._version, request.seed + response.sample, place, output.new_token_ids)
        response.token_ids += output.new_token_ids
        self._counts["num_tokens"] += len(output.new_token_ids)
        if self._requests[response.index].want_logprobs:
            assert output.new_logprobs is not None
            response.logprobs += output.new_logprobs.logprobs[:, 0].tolist()  # column 0: the sampled token
            if len(response.logprobs) != len(response.token_ids):
                raise RuntimeError(
                    f"vLLM gave {len(response.logprobs)} log-probs for {len(response.token_ids)} tokens"
                )

    def _end(self, name: str, end: End) -> None:
        response = self._open.pop(name)
        ended = self._ended[response.index]
        ended[response.sample] = Segment(
            self._version, tuple(response.token_ids), tuple(response.logprobs), end
        )
        if len(ended) == self._requests[response.index].num_samples:
            self._complete.append((response.index, [ended[sample] for sample in sorted(ended)]))


def engine_request(name: str, token_ids: list[int], params: SamplingParams) -> EngineCoreRequest:
    """A text request to vLLM's engine core."""
    fields: dict[str, Any] = dict.fromkeys(
        ("mm_features", "pooling_params", "lora_request", "cache_salt", "data_parallel_rank")
    )
    return EngineCoreRequest(
        request_id=name, prompt_token_ids=token_ids, sampling_params=params, arrival_time=0.0, **fields
    )


def sampling_params(
    request: SampleRequest, sample: int, stop_token_ids: list[int], *, engine_seeds: bool
) -> SamplingParams:
    """vLLM's parameters of one sample; whatever would change eq. 3's ratio is neutral."""
    seed = (request.seed + sample) % 2**63
    return SamplingParams(
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        logprobs=0 if request.want_logprobs else None,  # 0: of the sampled token only
        stop_token_ids=stop_token_ids,
        seed=seed if engine_seeds else None,
        extra_args=None if engine_seeds else {SEED_FIELD: seed},
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
