# environment: engine
"""The rollout service against vLLM's own offline LLM.generate: throughput, and what a continuation costs.

    make bench NAME=rollout

Two processes with the same engine settings and a random Qwen3 of 0.7M parameters (fp32, one thread): ours
behind HTTP with a seed per sample, and LLM.generate with its one generator. They take turns, 64 new prompts ×
8 samples of up to 64 tokens a pass, so that both meet the same load. of_offline is the median over passes of
the ratio of tokens per second, with log-probs (what RL asks for) and without (evaluation); of_offline_cpu the
same by CPU seconds, ours with the client's, which other work on the machine disturbs less. Then 512 responses
of one version are cut at 40 tokens and continued: the share of their tokens found in the prefix cache, and
how many tokens were sampled beyond those the finished responses have. Writes out/bench/rollout.json.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from k15.engines.service.client import RemoteSampler
from k15.engines.service.process import Service, launch_sampler
from k15.engines.service.settings import SamplerSettings
from k15.records import End, SampleRequest

PASSES = 7  # of each, after one that warms up
PROMPTS, SAMPLES, TOKENS = 64, 8, 64
CUT_TOKENS = 40  # of a response's first segment
VOCABULARY = 256
DEADLINE_S = 600.0
LIMIT = 0.95


def main() -> int:
    """Measure, print the table, write the figures; 1 where ours is slower than the limit."""
    with tempfile.TemporaryDirectory() as folder:
        settings = SamplerSettings(
            model_dir=str(make_model(Path(folder) / "model")),
            max_model_len=160,
            max_num_seqs=PROMPTS * SAMPLES,
            kv_cache_bytes=1 << 30,
        )
        with launch_sampler(settings, log_path=Path(folder) / "sampler.log") as service:
            figures = throughput(settings, service, Path(folder)) | continued(RemoteSampler(service))
    target = Path.cwd() / "out/bench/rollout.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1))
    print("  ".join(f"{name}={value:.4g}" for name, value in figures.items()))
    return 0 if figures["of_offline"] >= LIMIT and figures["tokens_regenerated"] == 0 else 1


def make_model(directory: Path) -> Path:
    """A random model in Hugging Face layout."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=1,
    )
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return directory


def some_prompts(seed: int) -> list[tuple[int, ...]]:
    """Random prompts of 10 to 40 tokens."""
    draw = random.Random(seed)
    return [tuple(draw.randrange(2, VOCABULARY) for _ in range(draw.randint(10, 40))) for _ in range(PROMPTS)]


def throughput(settings: SamplerSettings, service: Service, folder: Path) -> dict[str, float]:
    """Tokens per second of both, taking turns."""
    path = folder / "settings.json"
    path.write_text(json.dumps(settings.resolved()))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.peers.offline", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / "offline.log").open("w"),
        text=True,
    ) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        if peer.stdout.readline() != "ready\n":
            raise RuntimeError((folder / "offline.log").read_text()[-2000:])
        service.wait_ready()
        rows = []
        for number in range(PASSES + 1):
            for logprobs in (True, False):
                prompts = some_prompts(2 * number + logprobs)
                pair = (ours(service, prompts, logprobs), offline(peer, prompts, logprobs))
                if number:
                    rows.append((logprobs, *pair))
                    print(
                        f"logprobs={logprobs!s:<5} "
                        f"ours={pair[0].per_s:>7.0f} ({pair[0].per_cpu_s:>7.0f} per CPU second)  "
                        f"offline={pair[1].per_s:>7.0f} ({pair[1].per_cpu_s:>7.0f}) tokens/s",
                        flush=True,
                    )
        peer.stdin.close()
    with_logprobs = [(a, b) for logprobs, a, b in rows if logprobs]
    return {
        "of_offline": median(a.per_s / b.per_s for a, b in with_logprobs),
        "of_offline_cpu": median(a.per_cpu_s / b.per_cpu_s for a, b in with_logprobs),
        "of_offline_without_logprobs": median(a.per_s / b.per_s for logprobs, a, b in rows if not logprobs),
        "tokens_per_s": median(a.per_s for a, _ in with_logprobs),
        "offline_tokens_per_s": median(b.per_s for _, b in with_logprobs),
    }


@dataclass(frozen=True)
class Speed:
    """Of one pass."""

    per_s: float  # tokens per second of wall time
    per_cpu_s: float


def ours(service: Service, prompts: Sequence[tuple[int, ...]], logprobs: bool) -> Speed:
    """A pass through the client, from the requests to the last answer."""
    sampler, process = RemoteSampler(service), psutil.Process(service.process.pid)
    requests = [
        SampleRequest(prompt, TOKENS, SAMPLES, seed=i * SAMPLES, want_logprobs=logprobs)
        for i, prompt in enumerate(prompts)
    ]

    def cpu_s() -> float:
        return float(time.process_time() + sum(process.cpu_times()[:2]))

    started, cpu_started = time.perf_counter(), cpu_s()
    answers = list(sampler.sample(requests, deadline_s=DEADLINE_S))
    seconds, cpu_seconds = time.perf_counter() - started, cpu_s() - cpu_started
    tokens = sum(len(segment.token_ids) for _, segments in answers for segment in segments)
    return Speed(tokens / seconds, tokens / cpu_seconds)


def offline(peer: "subprocess.Popen[str]", prompts: Sequence[tuple[int, ...]], logprobs: bool) -> Speed:
    """A pass of LLM.generate."""
    assert peer.stdin is not None
    assert peer.stdout is not None
    call: dict[str, Any] = {
        "prompts": prompts,
        "num_samples": SAMPLES,
        "max_tokens": TOKENS,
        "logprobs": logprobs,
    }
    peer.stdin.write(json.dumps(call) + "\n")
    peer.stdin.flush()
    answer = json.loads(peer.stdout.readline())
    return Speed(answer["tokens"] / answer["seconds"], answer["tokens"] / answer["cpu_seconds"])


def continued(sampler: RemoteSampler) -> dict[str, float]:
    """What continuing cut responses costs, and whether they become what they would have been in one piece."""
    requests = [
        SampleRequest(prompt, TOKENS, seed=i * SAMPLES + j)
        for i, prompt in enumerate(some_prompts(1000))
        for j in range(SAMPLES)
    ]
    cut_off = [replace(request, max_tokens=CUT_TOKENS) for request in requests]
    first = {i: segments[0] for i, segments in sampler.sample(cut_off, deadline_s=DEADLINE_S)}
    sampled = sampler.stats.num_tokens
    cut = [i for i, segment in first.items() if segment.end is End.BUDGET]
    rest = [replace(requests[i], prefix=first[i].token_ids, max_tokens=TOKENS - CUT_TOKENS) for i in cut]
    second = {cut[n]: segments[0] for n, segments in sampler.sample(rest, deadline_s=DEADLINE_S)}
    sampled += sampler.stats.num_tokens
    hit_share = sampler.stats.prefix_hit_share
    kept = sum(len(segment.token_ids) for some in (first, second) for segment in some.values())
    whole = {i: segments[0] for i, segments in sampler.sample(requests, deadline_s=DEADLINE_S)}
    joined = {i: first[i].token_ids + (second[i].token_ids if i in second else ()) for i in first}
    return {
        "prefix_hit_share": hit_share,
        "tokens_regenerated": sampled - kept,
        "continued": len(cut),
        "continued_equal_to_uninterrupted": sum(whole[i].token_ids == joined[i] for i in cut) / len(cut),
    }


if __name__ == "__main__":
    raise SystemExit(main())
