"""vLLM's arguments by device and number of GPUs."""

from pathlib import Path
from typing import Any

import pytest

from k15.engines.vllm.arguments import CUDA_BATCHED_TOKENS, engine_arguments

pytestmark = pytest.mark.engine


def arguments(**changes: Any) -> dict[str, Any]:
    given = {
        "device": "cuda",
        "dtype": "bfloat16",
        "max_model_len": 131_072,
        "max_num_seqs": 512,
        "kv_cache_bytes": 1 << 30,
        "memory_share": 0.8,
        "tensor": 1,
        "load_weights": True,
    }
    return engine_arguments(Path("/model"), **(given | changes))


def test_on_a_gpu_the_cache_is_a_share_of_its_own_memory() -> None:
    made = arguments()
    assert made["gpu_memory_utilization"] == 0.8
    assert "kv_cache_memory_bytes" not in made  # which is of the host's
    assert made["max_num_batched_tokens"] == CUDA_BATCHED_TOKENS < made["max_model_len"]
    assert made["enable_chunked_prefill"]


def test_on_a_cpu_it_is_bytes() -> None:
    made = arguments(device="cpu")
    assert made["kv_cache_memory_bytes"] == 1 << 30
    assert "gpu_memory_utilization" not in made


def test_several_gpus_are_processes_with_our_worker() -> None:
    made = arguments(tensor=4)
    assert (made["tensor_parallel_size"], made["distributed_executor_backend"]) == (4, "mp")
    assert arguments()["distributed_executor_backend"] == "uni"
    assert made["worker_extension_cls"] == "k15.engines.vllm.worker.K15Worker"


def test_weights_that_a_trainer_sends_are_not_read() -> None:
    assert arguments(load_weights=False)["load_format"] == "dummy"
    assert arguments()["load_format"] == "auto"
