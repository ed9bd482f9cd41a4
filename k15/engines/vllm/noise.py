"""Sampling noise that depends on a sample's seed and position alone: not on batch, order or replica.

A token is drawn by the Gumbel-max trick, argmax over v of logits[v] + g(seed, position, v), with g from a
hash instead of a generator's state. vLLM's second model runner (CUDA) does that itself with
SamplingParams.seed. On the CPU its fused kernel makes g from one integer per row, so that integer is all that
is computed here: a generator per request, which vLLM would use for a seed there, costs a quarter of the speed
at 512 sequences.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SEED_FIELD = "k15_seed"  # in SamplingParams.extra_args, where the engine has no seeds of its own

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea and Flood 2014): a bijection that mixes all 64 bits."""
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def row_keys(seeds: Sequence[int], positions: Sequence[int]) -> torch.Tensor:
    """One int64 [rows] per pair of a seed (taken modulo 2^64) and a position in the sequence."""
    of_seed = splitmix64(np.array([seed % 2**64 for seed in seeds], dtype=np.uint64))
    of_place = splitmix64(of_seed ^ np.asarray(positions, dtype=np.uint64))
    return torch.from_numpy(of_place.view(np.int64))


class SeededDraw(torch.nn.Module):
    """Takes the place of the CPU model runner's topk_topp_sampler."""

    def __init__(self, runner: Any) -> None:
        super().__init__()
        self._runner = runner

    def forward(
        self, logits: torch.Tensor, _generators: Any, top_k: Any, top_p: Any
    ) -> tuple[torch.Tensor, None]:
        """One token per row of `logits` [rows, vocabulary]; the rows are those of the runner's batch."""
        if top_k is not None or top_p is not None:
            raise RuntimeError("top_k and top_p would change eq. 3's ratio: leave them neutral")
        batch = self._runner.input_batch
        params = [self._runner.requests[name].sampling_params for name in batch.req_ids]
        seeds = [of_row.extra_args[SEED_FIELD] for of_row in params]
        keys = row_keys(seeds, batch.num_tokens_no_spec[: len(seeds)])
        return torch.ops._C.fused_gumbel_argmax(logits.float(), keys), None


def seeded_by_engine(runner: Any, vllm_config: Any, *, device: str) -> bool:
    """Whether SamplingParams.seed does it; else SEED_FIELD is read, by the SeededDraw this installs.

    ValueError where neither is possible.
    """
    if vllm_config.use_v2_model_runner:
        return True
    if device != "cpu":
        raise ValueError(
            "this model runs on vLLM's first model runner, which has no stateless seeds on CUDA; set "
            "VLLM_USE_V2_MODEL_RUNNER=1 or take a model its second one supports"
        )
    runner.sampler.topk_topp_sampler = SeededDraw(runner)
    return False
