"""Which GPU a rank takes, worked out without one."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from k15.engines.megatron.devices import device_of, places_of_ranks

pytestmark = pytest.mark.engine


def test_a_rank_takes_its_place_among_those_of_its_host() -> None:
    hosts = ["a"] * 4 + ["b"] * 4
    assert [device_of(hosts, rank, 4) for rank in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [device_of(["a", "b", "a", "b"], rank, 8) for rank in range(4)] == [0, 0, 1, 1]


def test_a_launcher_that_shows_each_rank_one_gpu_is_followed() -> None:
    places = [f"a (GPU-{number})" for number in range(4)]
    assert [device_of(places, rank, 1) for rank in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize("rank", [0, 2])
def test_no_two_ranks_share_a_gpu(rank: int) -> None:
    with pytest.raises(ValueError, match="3 ranks are on host a with 2 GPUs, and no two share one"):
        device_of(["a", "a", "a"], rank, 2)


def test_every_rank_learns_where_the_others_are() -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor() as threads:
        hosts = threads.map(lambda rank: places_of_ranks(store, rank, 3, "ab"[rank % 2]), range(3))
    assert list(hosts) == [["a", "b", "a"]] * 3
