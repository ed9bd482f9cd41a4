"""Trainer and sampler in turns on one GPU, and a sampler over two. Needs one GPU, the last test two:

python -m pytest tests/gpu/test_turns_cuda.py -m gpu
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from k15.engines.service.client import RemoteSampler, RemoteTrainer
from k15.engines.service.process import launch_sampler, launch_trainer
from k15.engines.service.settings import NO_VERSION, SamplerSettings, TrainerSettings
from k15.engines.service.turns import Turns
from k15.records import SampleRequest, Segment
from k15.records import Sequence as Row

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),
]
REQUESTS = [SampleRequest((5 + i, 7, 9), 64, 4, seed=i) for i in range(16)]
MISMATCH = 0.05  # mean, bf16 on both sides


def taken_bytes() -> int:
    """Of the GPU's memory, by everybody."""
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


def compared(trainer: RemoteTrainer, answers: dict[int, list[Segment]]) -> float:
    """Mean |log p_trainer − log p_sampler|."""
    rows, theirs = [], []
    for index, segments in answers.items():
        prompt = REQUESTS[index].prompt_token_ids
        for segment in segments:
            new = len(segment.token_ids)
            rows.append(Row((*prompt, *segment.token_ids), (False,) * len(prompt) + (True,) * new))
            theirs += segment.logprobs
    ours = [value for row in trainer.logprobs(rows) for value in row]
    return sum(abs(mine - other) for mine, other in zip(ours, theirs, strict=True)) / len(ours)


def settings(model: Path, tensor: int) -> SamplerSettings:
    return SamplerSettings(
        model_dir=str(model),
        version=NO_VERSION,
        waits=True,
        device="cuda",
        dtype="bfloat16",
        max_model_len=256,
        max_num_seqs=64,
        tensor=tensor,
        memory_share=0.8,
    )


@pytest.fixture
def trainer(cuda_model: Path, tmp_path: Path) -> Iterator[RemoteTrainer]:
    asked = TrainerSettings(model_dir=str(cuda_model), device="cuda", precision="bfloat16")
    with launch_trainer(asked, log_path=tmp_path / "trainer.log") as service:
        service.wait_ready()
        yield RemoteTrainer(service)


def test_offloading_frees_the_gpu_and_comes_back(cuda_model: Path) -> None:
    from k15.engines.megatron.trainer import MegatronTrainer

    trainer = MegatronTrainer(cuda_model, threads=1, max_tokens_per_microbatch=512, precision="bfloat16")
    rows = [Row(tuple((5 * n + t) % 512 for t in range(40)), (False,) + (True,) * 39) for n in range(8)]
    trainer.supervised_step(rows, lr=1e-3)
    before, held = trainer.logprobs(rows), torch.cuda.memory_allocated()
    moved = trainer.offload()
    assert held - torch.cuda.memory_allocated() >= moved == 18 * trainer.num_parameters
    assert trainer.onload() == moved
    assert trainer.logprobs(rows) == before


@pytest.mark.parametrize(
    "tensor",
    [1, pytest.param(2, marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"))],
)
def test_two_turns_of_samplers_that_wait_without_the_gpu(
    cuda_model: Path, trainer: RemoteTrainer, tmp_path: Path, tensor: int
) -> None:
    names = iter(f"sampler-{number}" for number in range(9))
    running = []

    def launch() -> tuple[str, RemoteSampler]:
        name = next(names)
        running.append(launch_sampler(settings(cuda_model, tensor), log_path=tmp_path / f"{name}.log"))
        return name, RemoteSampler(running[-1], version=NO_VERSION)

    try:
        before = taken_bytes()
        first = dict([launch()])
        for replica in first.values():
            replica.wait()
        assert taken_bytes() - before < 64 << 20  # it has imported everything, and has no context
        turns = Turns(trainer, launch, first, version=0, capacity=64)
        for version in (0, 1):
            turns.update(trainer.publish(version, deadline_s=60), deadline_s=60)
            answers = dict(turns.sample(REQUESTS, deadline_s=120))
            assert {s.policy_version for segments in answers.values() for s in segments} == {version}
            assert compared(trainer, answers) < MISMATCH
            assert turns.stats.turn is not None and turns.stats.turn.end > 0
            assert taken_bytes() - before < 512 << 20  # the sampler's share, 0.8 of the GPU, is back
    finally:
        for service in running:
            service.stop()
