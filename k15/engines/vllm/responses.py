"""The responses of one call while they grow: what is open, what a step added, what has ended."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason

from k15.records import End, SampleRequest, Segment

_ENDS = {FinishReason.STOP: End.STOP, FinishReason.LENGTH: End.BUDGET}


@dataclass(slots=True)
class _Response:
    """One sample under way."""

    index: int  # of its request
    sample: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class Responses:
    """The samples of a list of requests. Engine requests are named `<call>/<index>/<sample>`."""

    def __init__(self, requests: Sequence[SampleRequest], *, call: int, version: int) -> None:
        self._requests = requests
        self._call = call
        self._version = version
        self._open: dict[str, _Response] = {}
        self._ended: list[dict[int, Segment]] = [{} for _ in requests]

    def start(self, stop_token_ids: list[int]) -> Iterator[EngineCoreRequest]:
        """An engine request for every sample, to be run in this order."""
        for index, request in enumerate(self._requests):
            tokens = [*request.prompt_token_ids, *request.prefix]
            for sample in range(request.num_samples):
                name = f"{self._call}/{index}/{sample}"
                self._open[name] = _Response(index, sample)
                yield engine_request(name, tokens, sampling_params(request, stop_token_ids))

    @property
    def open(self) -> list[str]:
        """The engine requests that have not ended."""
        return list(self._open)

    def add(self, outputs: Sequence[EngineCoreOutput]) -> list[tuple[int, list[Segment]]]:
        """Take a step's tokens; the requests whose samples have all ended with it."""
        complete = []
        for output in outputs:
            response = self._open[output.request_id]
            self._extend(response, output)
            if output.finish_reason is not None:
                complete += self._end(output.request_id, _ENDS[output.finish_reason])
        return complete

    def cut(self) -> list[tuple[int, list[Segment]]]:
        """End all that is open with the tokens it has (End.BUDGET); the requests this completes."""
        return [answer for name in self.open for answer in self._end(name, End.BUDGET)]

    def _extend(self, response: _Response, output: EngineCoreOutput) -> None:
        response.token_ids += output.new_token_ids
        if self._requests[response.index].want_logprobs:
            assert output.new_logprobs is not None
            response.logprobs += output.new_logprobs.logprobs[:, 0].tolist()  # column 0: the sampled token
            if len(response.logprobs) != len(response.token_ids):
                raise RuntimeError(
                    f"vLLM gave {len(response.logprobs)} log-probs for {len(response.token_ids)} tokens"
                )

    def _end(self, name: str, end: End) -> list[tuple[int, list[Segment]]]:
        response = self._open.pop(name)
        ended = self._ended[response.index]
        ended[response.sample] = Segment(
            self._version, tuple(response.token_ids), tuple(response.logprobs), end
        )
        if len(ended) < self._requests[response.index].num_samples:
            return []
        return [(response.index, [ended[sample] for sample in sorted(ended)])]


def engine_request(name: str, token_ids: list[int], params: SamplingParams) -> EngineCoreRequest:
    """A text request to vLLM's engine core."""
    fields: dict[str, Any] = dict.fromkeys(
        ("mm_features", "pooling_params", "lora_request", "cache_salt", "data_parallel_rank")
    )
    return EngineCoreRequest(
        request_id=name, prompt_token_ids=token_ids, sampling_params=params, arrival_time=0.0, **fields
    )


def sampling_params(request: SampleRequest, stop_token_ids: list[int]) -> SamplingParams:
    """vLLM's parameters of one sample; whatever would change eq. 3's ratio is neutral."""
    return SamplingParams(
        temperature=request.temperature,
        max_tokens=request.max_tokens,
        logprobs=0 if request.want_logprobs else None,  # 0: of the sampled token only
        stop_token_ids=stop_token_ids,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
