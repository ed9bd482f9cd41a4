"""Trainer and sampler services together: publish over each channel, and the same log-probs on both sides."""

from pathlib import Path

import pytest

from k15.engines.service.client import RemoteSampler, RemoteTrainer
from k15.engines.service.process import Service, launch_trainer
from k15.engines.service.settings import TrainerSettings
from k15.recipes.rl import PolicyUpdate
from k15.records import Group, SampleRequest, Segment, Sequence
from tests.engines.responses import sampled

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def groups_of(requests: list[SampleRequest], answers: list[list[Segment]]) -> list[Group]:
    """Each response rewarded by its length, so that every group has something to learn."""
    groups = []
    for request, segments in zip(requests, answers, strict=True):
        prompt = request.prompt_token_ids
        rows = [
            Sequence((*prompt, *s.token_ids), (False,) * len(prompt) + (True,) * len(s.token_ids))
            for s in segments
        ]
        rewards = tuple(float(len(s.token_ids) % 2) for s in segments)
        groups.append(Group(str(prompt), tuple(rows), rewards, tuple(s.logprobs for s in segments)))
    return groups


@pytest.fixture(scope="module")
def trainer(untied_model: Path, tmp_path_factory: pytest.TempPathFactory):
    log_path = tmp_path_factory.mktemp("trainer") / "trainer.log"
    with launch_trainer(TrainerSettings(model_dir=str(untied_model)), log_path=log_path) as service:
        yield service.wait_ready(deadline_s=240)


def test_the_sampler_follows_the_trainer_through_two_rounds(
    trainer: Service, learning_sampler: RemoteSampler, tmp_path: Path
) -> None:
    remote = RemoteTrainer(trainer)
    learning_sampler.open_channel(remote.layout())
    learning_sampler.update(remote.publish(100, deadline_s=10), deadline_s=10)
    with pytest.raises(ValueError, match="version 100 of the weights goes back: 100 was sent already"):
        remote.publish(100, deadline_s=10)
    settings = PolicyUpdate(lr=1e-2, inner_steps=1)
    told = []
    for version in (101, 102):
        requests = [SampleRequest((2 + i, 30, 40 + i), 20, 4, seed=i) for i in range(8)]
        answers = sampled(learning_sampler, requests)
        assert {s.policy_version for segments in answers for s in segments} == {version - 1}
        stats = remote.policy_update(groups_of(requests, answers), settings=settings, lr=1e-2)
        assert stats.num_updates == 1
        assert stats.mismatch_mean < 1e-5
        assert stats.mismatch_max < 1e-3
        learning_sampler.update(remote.publish(version, deadline_s=10), deadline_s=10)
        told.append(answers)
    assert told[0] != told[1]
    loss = remote.supervised_step([Sequence((3, 4, 5), (False, True, True))], lr=1e-3)["loss"]
    assert loss > 0
    remote.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "config.json").is_file()
    assert list((tmp_path / "saved").glob("*.safetensors"))
