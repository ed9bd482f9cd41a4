"""vLLM's arguments for a VllmSampler. Light: read without vLLM."""

from pathlib import Path
from typing import Any

from k15.engines.vllm import worker

BLOCK_TOKENS = 32  # the CPU backend refuses 16, and its default caches no prefix
MIN_BATCHED_TOKENS = 8192
CUDA_BATCHED_TOKENS = 16384  # of a step; a whole row of 131,072 would take 13 GB in the MLP of a 32B model


def engine_arguments(
    model_dir: Path,
    *,
    device: str,
    dtype: str,
    max_model_len: int,
    max_num_seqs: int,
    kv_cache_bytes: int,
    memory_share: float,
    tensor: int,
    load_weights: bool,
) -> dict[str, Any]:
    """vLLM's arguments for one engine that serves token ids, in this process and `tensor` - 1 others.

    On CUDA the cache is what `memory_share` of each GPU leaves beside the weights and one step's work, which
    vLLM measures; prompts and continued responses longer than a step are taken in pieces.
    """
    of_device: dict[str, Any] = (
        {"gpu_memory_utilization": memory_share, "max_num_batched_tokens": CUDA_BATCHED_TOKENS}
        if device == "cuda"
        else {
            "kv_cache_memory_bytes": kv_cache_bytes,
            "max_num_batched_tokens": max(MIN_BATCHED_TOKENS, max_model_len),
        }
    )
    return of_device | {
        "model": str(model_dir),
        "load_format": "auto" if load_weights else "dummy",
        "dtype": dtype,
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "block_size": BLOCK_TOKENS,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "enforce_eager": True,
        "async_scheduling": False,
        "tensor_parallel_size": tensor,
        "distributed_executor_backend": "mp" if tensor > 1 else "uni",
        "worker_extension_cls": worker.NAME,
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        "seed": 0,
    }
