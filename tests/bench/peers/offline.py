"""vLLM's own offline LLM.generate, a pass for every line on standard input.

    python -m tests.bench.peers.offline SETTINGS.json

A line is JSON: prompts (lists of token ids), num_samples, max_tokens, logprobs (true or false). The answer is
a line of JSON: seconds, cpu_seconds, tokens.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from k15.engines.service.settings import SamplerSettings
from k15.engines.vllm.environment import environment


def main() -> None:
    """Start the engine as the service's settings say, then answer until standard input ends."""
    settings = SamplerSettings.parse(json.loads(Path(sys.argv[1]).read_text()), where=sys.argv[1])
    os.environ |= environment(device=settings.device, threads=settings.threads)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints is no answer
    llm, stop_token_ids = start(settings)
    out.write("ready\n")
    out.flush()
    for line in sys.stdin:
        out.write(json.dumps(generate(llm, stop_token_ids, json.loads(line))) + "\n")
        out.flush()


def start(settings: SamplerSettings) -> tuple[Any, list[int]]:
    """vLLM with the settings of VllmSampler."""
    import torch
    from vllm import LLM

    from k15.engines.vllm.arguments import engine_arguments
    from k15.engines.vllm.engine import stop_token_ids

    torch.cpu._init_amx()
    model_dir = Path(settings.model_dir)
    arguments = engine_arguments(
        model_dir,
        device=settings.device,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_bytes=settings.kv_cache_bytes,
        memory_share=settings.memory_share,
        tensor=settings.tensor,
        load_weights=True,
    )
    return LLM(**arguments), stop_token_ids(model_dir)


def generate(llm: Any, stop_token_ids: list[int], call: dict[str, Any]) -> dict[str, float]:
    """One pass, timed from the tokens of the prompts to the tokens of the responses."""
    from vllm import SamplingParams

    params = SamplingParams(
        n=call["num_samples"],
        temperature=1.0,
        max_tokens=call["max_tokens"],
        logprobs=0 if call["logprobs"] else None,
        flat_logprobs=True,
        stop_token_ids=stop_token_ids,
        detokenize=False,
    )
    prompts = [{"prompt_token_ids": tokens} for tokens in call["prompts"]]
    started, cpu_started = time.perf_counter(), time.process_time()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "tokens": sum(len(c.token_ids) for o in outputs for c in o.outputs),
    }


if __name__ == "__main__":
    main()
