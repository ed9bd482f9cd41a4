"""The environment variables a vLLM process needs before it starts."""


def environment(*, device: str, threads: int) -> dict[str, str]:
    """Variables for a process that builds a VllmSampler.

    In-process engine, no network, no usage report. On CPU: no pinning to cores (the trainer shares them), and
    no torch.compile, which would call a C++ compiler for one small operation (20 s at the first sample).
    """
    common = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "OMP_NUM_THREADS": str(threads),
    }
    if device == "cuda":
        return common
    return common | {
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
