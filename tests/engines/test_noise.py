"""The seeded noise: distribution, independence of rows, and what it depends on."""

import numpy as np
import pytest
import torch

from k15.engines.vllm.noise import row_keys, splitmix64

pytestmark = pytest.mark.engine


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Pearson's statistic in standard deviations from its mean; categories of few expected counts joined."""
    expected = probabilities * counts.sum()
    order = expected.argsort(descending=True)
    expected, counts = expected[order], counts[order]
    last = int((expected >= 20).sum())
    expected = torch.cat([expected[:last], expected[last:].sum()[None]])
    counts = torch.cat([counts[:last], counts[last:].sum()[None]])
    freedom = len(expected) - 1
    statistic = ((counts - expected) ** 2 / expected.clamp_min(1e-9)).sum()
    return float((statistic - freedom) / (2 * freedom) ** 0.5)


def draws(logits: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    import vllm._C  # noqa: F401

    return torch.ops._C.fused_gumbel_argmax(logits.expand(len(keys), -1).contiguous(), keys)


@pytest.mark.parametrize("vary", ["seed", "position", "both"])
@pytest.mark.parametrize("vocabulary", [7, 300, 5000])
def test_tokens_follow_the_softmax_over_seeds_and_over_positions(vary: str, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 2 * torch.randn(vocabulary, generator=generator)
    number = np.arange(40_000)
    seeds = number if vary == "seed" else number % 200 if vary == "both" else np.full_like(number, 17)
    positions = number if vary == "position" else number // 200 if vary == "both" else np.full_like(number, 5)
    counts = torch.zeros(vocabulary)
    for first in range(0, len(number), 4000):
        some = slice(first, first + 4000)
        tokens = draws(logits, row_keys(seeds[some].tolist(), positions[some].tolist()))
        counts += torch.bincount(tokens, minlength=vocabulary)
    assert abs(chi_square(counts, logits.double().softmax(-1).float())) < 4.5


def test_neighbouring_seeds_and_positions_are_independent() -> None:
    logits = torch.randn(8, generator=torch.Generator().manual_seed(1))
    pairs = logits.softmax(-1)[:, None] * logits.softmax(-1)
    number = range(40_000)
    here = draws(logits, row_keys(list(number), [9] * len(number)))
    for seeds, positions in (
        (list(number), [10] * len(number)),
        ([n + 1 for n in number], [9] * len(number)),
    ):
        other = draws(logits, row_keys(seeds, positions))
        counts = torch.bincount(here * 8 + other, minlength=64).float()
        # Pairs of neighbouring seeds overlap, which widens the statistic by less than a factor of 2.
        assert abs(chi_square(counts, pairs.flatten())) < 9


def test_a_key_depends_on_its_seed_and_position_alone_and_no_two_are_equal() -> None:
    seeds, positions = np.meshgrid(np.arange(-50, 450), np.arange(400))
    keys = row_keys(seeds.ravel().tolist(), positions.ravel().tolist())
    assert len(keys.unique()) == keys.numel()
    again = row_keys([2**64 - 50, 3], [399, 7])
    assert again.tolist() == [keys[(399 * 500)].item(), keys[7 * 500 + 53].item()]


def test_splitmix64_is_the_published_one() -> None:
    state, told = np.uint64(1234567), []
    for _ in range(3):
        told.append(int(splitmix64(np.array([state]))[0]))
        state = np.array([state]) + np.uint64(0x9E3779B97F4A7C15)
        state = state[0]
    assert told == [6457827717110365317, 3203168211198807973, 9817491932198370423]
