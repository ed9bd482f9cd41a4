"""The cache of tokens on a real store."""

from datetime import timedelta

import numpy as np
import pytest

from k15.store import gc as sweep
from k15.store.artifact import Store
from k15.store.gc import gc
from k15.store.tokens import Chunk, TokenCache

pytestmark = pytest.mark.services
NOW = -5.0  # a grace below the resolution of the server's times: everything is old


def chunk(*rows: list[int]) -> Chunk:
    return Chunk([np.asarray(row, np.int32) for row in rows], table_rows=9)


def content(found: Chunk | None) -> tuple[list[list[int]], int]:
    assert found is not None
    return [row.tolist() for row in found.rows], found.table_rows


def test_a_chunk_comes_back_and_the_first_of_racing_writers_stays(store: Store) -> None:
    cache, other = TokenCache(store.objects, "a" * 64), TokenCache(store.objects, "b" * 64)
    assert cache.get(0) is None
    cache.put(0, chunk([3, 5, 2**31 - 1], [7], [1, 2]))
    cache.put(0, chunk([3, 5, 2**31 - 1]))
    cache.put(3, chunk([4]))
    assert content(cache.get(0)) == ([[3, 5, 2**31 - 1], [7], [1, 2]], 9)
    assert content(cache.get(3)) == ([[4]], 9)
    assert cache.get(1) is None
    assert other.get(0) is None


def test_a_damaged_chunk_is_none_and_gives_way(store: Store) -> None:
    cache = TokenCache(store.objects, "a" * 64)
    cache.put(0, chunk(list(range(1000))))
    ((path, whole),) = store.objects.get_many([i.path for i in store.objects.list("cache/")]).items()
    for place in range(4, len(whole), 97):
        store.objects.put(path, whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found = cache.get(0)
        if found is not None:  # a byte that says nothing of tokens
            assert content(found) == ([list(range(1000))], 9)
            continue
        assert not store.objects.exists(path)
        cache.put(0, chunk(list(range(1000))))
        assert content(cache.get(0)) == ([list(range(1000))], 9)


def test_the_sweep_takes_tokens_by_age_or_with_stages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TokenCache(store.objects, "a" * 64)
    cache.put(0, chunk([1, 2]))
    assert gc(store, grace_s=NOW).num_objects == 0
    assert gc(store, keep=[]).num_objects == 0
    assert content(cache.get(0)) == ([[1, 2]], 9)
    assert gc(store, keep=[], grace_s=NOW).others == [f"cache/tokens/{'a' * 64}/{0:012d}.parquet"]
    assert cache.get(0) is None
    cache.put(0, chunk([1, 2]))
    monkeypatch.setattr(sweep, "CACHE_AGE_S", timedelta(0).total_seconds())
    assert gc(store, grace_s=NOW).num_objects == 1
    assert cache.get(0) is None
