"""The sampler against transformers: log-probs, weights in place, continuation, refusal, reproducibility."""

import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from k15.engines.service.client import RemoteSampler
from k15.engines.service.process import Service
from k15.engines.shared_memory import FOLDER, SharedMemorySender
from k15.engines.weights import HEADER_BYTES, tensor_bytes
from k15.records import End, SampleRequest, Segment, TensorSpec
from tests.engines.conftest import STOP_TOKEN
from tests.engines.responses import sampled, some_requests, tokens_of

pytestmark = [pytest.mark.engine, pytest.mark.slow]


class Reference:
    """The same model in transformers, fp32."""

    def __init__(self, model_dir: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()

    def perturb(self, seed: int) -> None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, parameter.detach()) for name, parameter in self.model.named_parameters()]

    def layout(self) -> list[TensorSpec]:
        specs: list[TensorSpec] = []
        for name, tensor in self.tensors():
            offset = specs[-1].offset + tensor_bytes(specs[-1]) if specs else 0
            specs.append(TensorSpec(name, "float32", tuple(tensor.shape), offset))
        return specs

    @torch.no_grad()
    def logprobs(self, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
        logits = self.model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


def differences(
    reference: Reference, requests: Sequence[SampleRequest], answers: list[list[Segment]]
) -> torch.Tensor:
    return torch.cat(
        [
            (
                torch.tensor(segment.logprobs)
                - reference.logprobs(request.prompt_token_ids, segment.token_ids)
            ).abs()
            for request, segments in zip(requests, answers, strict=True)
            for segment in segments
        ]
    )


def assert_same_policy(reference: Reference, sampler: RemoteSampler, seed: int) -> None:
    requests = some_requests(seed)
    answers = sampled(sampler, requests)
    found = differences(reference, requests, answers)
    assert found.mean() < 1e-5
    assert found.max() < 1e-3
    ends = {segment.end for segments in answers for segment in segments}
    assert ends == {End.STOP, End.BUDGET}
    for segments in answers:
        assert len(segments) == 4
        for segment in segments:
            assert segment.policy_version == sampler.version
            assert (segment.token_ids[-1] == STOP_TOKEN) == (segment.end is End.STOP)
            assert segment.end is End.STOP or len(segment.token_ids) == 40


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_logprobs_are_those_of_transformers_before_and_after_updates_in_place(
    name: str, request: pytest.FixtureRequest
) -> None:
    sampler: RemoteSampler = request.getfixturevalue(f"{name}_sampler")
    reference = Reference(request.getfixturevalue(f"{name}_model"))
    assert_same_policy(reference, sampler, seed=1)
    sender = channel(sampler, reference)
    for version in (1, 2, 3):
        reference.perturb(version)
        ticket = sender.send(reference.tensors(), version, deadline_s=10)
        sampler.update(ticket, deadline_s=10)
        assert_same_policy(reference, sampler, seed=version)


def test_corrupt_or_torn_weights_are_refused_and_the_old_ones_serve_on(
    tied_sampler: RemoteSampler, tied_model: Path
) -> None:
    sampler, reference = tied_sampler, Reference(tied_model)
    sender = channel(sampler, reference)
    sampler.update(sender.send(reference.tensors(), 10, deadline_s=10), deadline_s=10)
    other = Reference(tied_model)
    other.perturb(7)
    ticket = sender.send(other.tensors(), 11, deadline_s=10)
    file, middle = FOLDER / ticket.source.place, HEADER_BYTES + ticket.num_bytes // 2
    flip_byte(file, middle)
    with pytest.raises(ConnectionError, match="version 11 are corrupt"):
        sampler.update(ticket, deadline_s=10)
    with pytest.raises(ConnectionError, match="torn, replaced or never sent"):
        sampler.update(replace(ticket, version=12), deadline_s=10)
    with pytest.raises(ValueError, match="version 9 of the weights goes back: 10 is served"):
        sampler.update(replace(ticket, version=9), deadline_s=10)
    with pytest.raises(ValueError, match="version 10 of the weights is served, and these are others"):
        sampler.update(replace(ticket, version=10), deadline_s=10)
    assert sampler.version == 10
    assert_same_policy(reference, sampler, seed=3)
    flip_byte(file, middle)
    sampler.update(ticket, deadline_s=10)
    assert_same_policy(other, sampler, seed=3)


def channel(sampler: RemoteSampler, reference: Reference) -> SharedMemorySender:
    """A trainer's end for `sampler`, which is made ready for it."""
    sampler.open_channel(reference.layout())
    return SharedMemorySender(reference.layout())


def flip_byte(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_serving_weights_do_not_lie_in_the_channel(tied_sampler: RemoteSampler, tied_model: Path) -> None:
    reference, noise = Reference(tied_model), Reference(tied_model)
    noise.perturb(5)
    sender = channel(tied_sampler, reference)
    tied_sampler.update(sender.send(reference.tensors(), 20, deadline_s=10), deadline_s=10)
    sender.send(noise.tensors(), 21, deadline_s=10)
    assert_same_policy(reference, tied_sampler, seed=4)


def test_a_trainer_of_another_model_is_refused(tied_sampler: RemoteSampler, untied_model: Path) -> None:
    with pytest.raises(ValueError, match=r"lm_head\.weight is only in the trainer's layout"):
        tied_sampler.open_channel(Reference(untied_model).layout())


def test_a_continuation_equals_the_uninterrupted_run(untied_sampler: RemoteSampler) -> None:
    requests = [replace(request, temperature=0.0) for request in some_requests(8, num_samples=1)]
    whole = [segments[0] for segments in sampled(untied_sampler, requests)]
    first = sampled(untied_sampler, [replace(request, max_tokens=15) for request in requests])
    cut = [index for index, segments in enumerate(first) if segments[0].end is End.BUDGET]
    assert cut
    rest = sampled(
        untied_sampler,
        [replace(requests[index], prefix=first[index][0].token_ids, max_tokens=25) for index in cut],
    )
    for index, segments in zip(cut, rest, strict=True):
        assert first[index][0].token_ids + segments[0].token_ids == whole[index].token_ids
        joined = first[index][0].logprobs + segments[0].logprobs
        assert torch.allclose(torch.tensor(joined), torch.tensor(whole[index].logprobs), atol=1e-4)
        assert segments[0].end is whole[index].end


def test_temperature_does_not_change_whose_logprobs_are_told(untied_sampler: RemoteSampler) -> None:
    hot = [replace(request, temperature=2.0) for request in some_requests(10)]
    answers = sampled(untied_sampler, hot)
    again = [
        replace(request, temperature=0.5, want_logprobs=False, num_samples=1, max_tokens=3) for request in hot
    ]
    assert all(segments[0].logprobs == () for segments in sampled(untied_sampler, again))
    mean = torch.tensor([value for segments in answers for s in segments for value in s.logprobs]).mean()
    cold = sampled(untied_sampler, some_requests(10))
    assert (
        mean
        < torch.tensor([value for segments in cold for s in segments for value in s.logprobs]).mean() - 0.5
    )


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (SampleRequest((), 4), "request 0: the prompt is empty"),
        (SampleRequest((5, 128), 4), "token ids must lie in 0..127"),
        (SampleRequest((5,), 128), "exceed max_model_len = 128"),
        (SampleRequest((5,), 4, num_samples=2, temperature=0.0), "temperature 0 are all the same"),
        (SampleRequest((5,), 0), "at least 1"),
    ],
)
def test_requests_that_cannot_be_sampled_are_named(
    tied_sampler: RemoteSampler, request_: SampleRequest, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sampled(tied_sampler, [request_])


def test_a_fresh_process_samples_the_same_and_its_sudden_death_is_told_at_once(
    victim: Service, tied_sampler: RemoteSampler, tied_model: Path
) -> None:
    reference = Reference(tied_model)
    sender = channel(tied_sampler, reference)
    tied_sampler.update(sender.send(reference.tensors(), 30, deadline_s=10), deadline_s=10)
    fresh = RemoteSampler(victim)
    requests = some_requests(13)
    told = sampled(tied_sampler, requests)
    assert tokens_of(sampled(fresh, requests)) == tokens_of(told)

    threading.Timer(0.3, victim.process.send_signal, [signal.SIGKILL]).start()
    started = time.monotonic()
    with pytest.raises(ConnectionError, match=r"stages\.sampler \(pid \d+\) was killed by signal 9"):
        sampled(fresh, some_requests(14, num=400, num_samples=8, max_tokens=80))
    assert time.monotonic() - started < 1.3
    with pytest.raises(ConnectionError, match="was killed by signal 9"):
        sampled(fresh, requests)
