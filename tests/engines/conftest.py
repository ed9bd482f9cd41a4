"""Tiny models, and the services that serve them; one process of each for the whole session."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from k15.engines.service.client import RemoteSampler
from k15.engines.service.process import Service, launch_sampler
from k15.engines.service.settings import SamplerSettings

VOCAB = 128
STOP_TOKEN = 1


def save_tiny_model(directory: Path, *, tied: bool, seed: int) -> Path:
    """A random Qwen3 of two layers whose log-probs vary widely between tokens."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        eos_token_id=STOP_TOKEN,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tied", tied=True, seed=0)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "untied", tied=False, seed=1)


def sampler_settings(model_dir: Path) -> SamplerSettings:
    return SamplerSettings(
        model_dir=str(model_dir), max_model_len=128, max_num_seqs=64, kv_cache_bytes=1 << 24
    )


@pytest.fixture(scope="session")
def services(
    tied_model: Path, untied_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Service]]:
    """Sampler services by name, launched together; a test waits for the one it uses."""
    logs = tmp_path_factory.mktemp("services")
    models = {"tied": tied_model, "untied": untied_model, "learner": untied_model, "victim": tied_model}
    running = {
        name: launch_sampler(sampler_settings(model), log_path=logs / f"{name}.log")
        for name, model in models.items()
    }
    yield running
    for service in running.values():
        service.stop()
    shutil.rmtree(logs)


def ready(service: Service) -> RemoteSampler:
    if not service.port:
        service.wait_ready(deadline_s=240)
    return RemoteSampler(service)


@pytest.fixture
def tied_sampler(services: dict[str, Service]) -> RemoteSampler:
    return ready(services["tied"])


@pytest.fixture
def untied_sampler(services: dict[str, Service]) -> RemoteSampler:
    return ready(services["untied"])


@pytest.fixture
def learning_sampler(services: dict[str, Service]) -> RemoteSampler:
    """A sampler that follows a trainer: its weights are no longer `untied_model`'s."""
    return ready(services["learner"])


@pytest.fixture
def victim(services: dict[str, Service]) -> Service:
    """A sampler with the weights of `tied_model` that a test may kill."""
    return services["victim"].wait_ready(deadline_s=240)
