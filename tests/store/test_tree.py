"""Lineage to the raw data, and verification that misses no byte."""

from collections.abc import Callable
from pathlib import Path

import pytest

from k15.store.artifact import Store, manifest_path
from k15.store.manifest import Manifest, Provenance
from k15.store.objects import PART_BYTES
from k15.store.tree import lineage, render, verify

pytestmark = pytest.mark.services
Make = Callable[..., Manifest]


@pytest.fixture
def final(store: Store, make: Make, tmp_path: Path) -> Manifest:
    """A model made from a user's file in three steps; its data is read twice."""
    (tmp_path / "questions.jsonl").write_text('{"question": "1 + 1", "answer": "2"}\n')
    raw = store.ingest(tmp_path / "questions.jsonl")
    provenance = Provenance(commit="0123456789abcdef", dirty=True)
    files = {"train/rows": b"1", "heldout/rows": b"2"}
    data = make("data", files, inputs={"questions": raw}, provenance=provenance)
    sft = make("sft", {"model/weights": bytes(20_000)}, kind="sft", inputs={"data": data.ref("train")})
    inputs = {"model": sft.ref("model"), "prompts": data.ref("heldout")}
    return make(
        "rl", {"model/weights": b"w", "metrics.jsonl": b""}, kind="rl", recipe={"tau": 0.1}, inputs=inputs
    )


def test_lineage_reaches_the_raw_data(store: Store, final: Manifest) -> None:
    tree = lineage(store, final.ref("model"))
    text = render(tree)
    lines = text.splitlines()
    assert lines[0].startswith(f"rl:model (rl v1)  {store.uri(final.key, 'model')}")
    assert sum("questions = raw file" in line for line in lines) == 1
    assert "commit 0123456789ab+changes" in text
    assert "data:heldout" in text and "data:train" in text
    below = tree.resolved()["inputs"][0]
    assert (below["role"], below["manifest"]["node"]) == ("model", "sft")


def test_what_is_as_committed_verifies(store: Store, final: Manifest) -> None:
    seen: list[tuple[int, int]] = []
    assert verify(store, final.ref(), lambda done, total: seen.append((done, total))) == []
    assert seen[-1][0] == seen[-1][1] > 20_000


def test_one_flipped_byte_anywhere_upstream_is_caught(store: Store, final: Manifest) -> None:
    paths = [info.path for info in store.objects.list("") if info.size]
    assert len(paths) == 1 + 3 + 4
    for path in paths:
        whole = store.objects.get(path)
        for at in {0, len(whole) // 2, len(whole) - 1}:
            damaged = bytearray(whole)
            damaged[at] ^= 1
            store.objects.put(path, bytes(damaged))
            problems = verify(store, final.ref("model"))
            assert any(store.objects.uri(path) in f"{p.uri} {p.what}" for p in problems), (path, at, problems)
        store.objects.put(path, whole)
    assert verify(store, final.ref()) == []


@pytest.mark.parametrize("left", [0, PART_BYTES])
def test_a_large_file_that_was_cut_short_is_caught(store: Store, make: Make, left: int) -> None:
    whole = bytes(PART_BYTES + 1)
    made = make("base", {"model/weights": whole, "model/config": b"{}"}, kind="base")
    path = f"attempts/{made.key}/{made.attempt}/model/weights"
    store.objects.put(path, whole[:left])
    problems = verify(store, made.ref())
    assert [problem.uri for problem in problems] == [store.uri(made.key)]
    assert f"{store.objects.uri(path)}: corrupt: {left} bytes long" in problems[0].what


def test_a_forged_manifest_is_caught(store: Store, final: Manifest) -> None:
    forgeries = {
        "recipe": {"tau": 0.2},
        "digest": "sha256:0",
        "files": (final.files[0].model_copy(update={"sha256": "0" * 64}), *final.files[1:]),
    }
    for field, value in forgeries.items():
        forged = final.model_copy(update={field: value})
        store.objects.put(manifest_path(final.key), forged.encode())
        assert verify(store, final.ref()), field


def test_what_is_gone_is_named(store: Store, final: Manifest) -> None:
    data = store.find("data")
    store.objects.delete([manifest_path(data.key)])
    assert "LOST" in render(lineage(store, final.ref()))
    assert [problem.uri for problem in verify(store, final.ref())] == [
        store.objects.uri(manifest_path(data.key))
    ]
