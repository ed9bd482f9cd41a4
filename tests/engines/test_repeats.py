"""Loops stop where the detector calls them, in one phase or over two; and the ledger holds every token."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from k15.algo.repeats import Repeats
from k15.engines.service.client import RemoteSampler
from k15.engines.service.process import launch_sampler
from k15.engines.vllm.ledger import VARIABLE
from k15.records import End, SampleRequest, Segment
from tests.engines.conftest import sampler_settings
from tests.engines.responses import sampled

pytestmark = [pytest.mark.engine, pytest.mark.slow]
PERIOD, VERSION = 24, 0


def looped(whole: Segment) -> tuple[tuple[int, ...], End]:
    """What the detector leaves of a response that was sampled to its end."""
    repeats = Repeats(max_period=PERIOD)
    if not repeats.feed(whole.token_ids) or repeats.num_tokens == len(whole.token_ids):
        return whole.token_ids, End.REPEAT if repeats.period and whole.end is not End.STOP else whole.end
    return whole.token_ids[: repeats.num_tokens], End.REPEAT


def read(folder: Path) -> Counter[tuple[int, ...]]:
    """The lines (version, seed, place, token) of a ledger, and how often each is there."""
    (file,) = folder.iterdir()
    return Counter(tuple(map(int, line.split())) for line in file.read_text().splitlines())


def test_a_loop_ends_at_the_token_that_shows_it_and_each_token_is_in_the_ledger(
    tied_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "ledger"))
    with launch_sampler(sampler_settings(tied_model), log_path=tmp_path / "log") as service:
        service.wait_ready(deadline_s=240)
        sampler = RemoteSampler(service)
        # at temperature 0 a small random model soon runs in circles
        watched = [
            SampleRequest((2 + n,), 110, temperature=0.0, seed=1000 * n, max_period=PERIOD)
            for n in range(120)
        ]
        expected = [looped(s) for (s,) in sampled(sampler, [replace(r, max_period=0) for r in watched])]
        assert 4 < sum(end is End.REPEAT for _, end in expected) < 120
        before = read(tmp_path / "ledger")
        found = [s for (s,) in sampled(sampler, watched)]
        assert [(s.token_ids, s.end) for s in found] == expected
        assert sampler.stats.num_tokens == sum(len(tokens) for tokens, _ in expected)
        first = [s for (s,) in sampled(sampler, [replace(r, max_tokens=50) for r in watched])]
        cut = [n for n, segment in enumerate(first) if segment.end is End.BUDGET]
        rest = [replace(watched[n], prefix=first[n].token_ids, max_tokens=60) for n in cut]
        for n, (segment,) in zip(cut, sampled(sampler, rest), strict=True):
            assert (first[n].token_ids + segment.token_ids, segment.end) == expected[n]
    after = read(tmp_path / "ledger") - before
    assert after == Counter(
        {
            (VERSION, request.seed, place, token): 2
            for request, (tokens, _) in zip(watched, expected, strict=True)
            for place, token in enumerate(tokens)
        }
    )
