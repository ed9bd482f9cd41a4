"""Lineage back to the raw data, verification of every byte, the sweep."""

from uuid import uuid4

import pytest

from k15.store.artifact import Store
from tests.finished_run import COMMIT, RAW_KEY, write_finished_run


@pytest.fixture
def own_run(seaweed, use_store):
    """A finished run that a test may damage."""
    environment = seaweed.environment | {"K15_S3_PREFIX": f"own/{uuid4()}"}
    use_store(environment)
    store = Store.from_environment(environment)
    return store, write_finished_run(store, rounds=2)


def test_lineage_prints_every_stage_digest_and_commit_back_to_the_raw_file(on_finished, finished):
    store, record = finished
    text = on_finished("lineage").out
    for name in ("short", "rl", "longcot", "sft", "activate", "pretrain", "base", "data"):
        key = record.nodes[name].key
        assert store.uri(key) in text
    assert f"raw/{RAW_KEY}" in text
    assert all(COMMIT[:12] in line for line in text.splitlines() if "raw file" not in line)
    assert all("sha256:" in line for line in text.splitlines())


def test_lineage_as_json_nests_the_inputs(on_finished):
    tree = on_finished("lineage", "sft", "--json").json
    assert tree["manifest"]["node"] == "sft"
    assert {below["role"] for below in tree["inputs"]} == {"model", "data"}


def test_lineage_as_mermaid_draws_every_edge(on_finished):
    text = on_finished("lineage", "evaluate", "--mermaid").out
    assert text.startswith("flowchart LR\n")
    assert text.count("-->") == 25
    assert '"model.short"' not in text


def test_verify_is_silent_about_an_intact_store(on_finished):
    ran = on_finished("verify")
    assert (ran.code, ran.err) == (0, "")
    assert on_finished("verify", "evaluate", "--json").json["problems"] == []


@pytest.mark.parametrize("where", ["model", "raw", "manifest"])
def test_verify_names_the_address_of_a_flipped_byte(own_run, k15, where):
    store, record = own_run
    sft = store.manifest(record.nodes["sft"].key)
    path = {
        "model": f"attempts/{sft.key}/{sft.attempt}/model/model.safetensors",
        "raw": f"raw/{RAW_KEY}",
        "manifest": f"stages/{sft.key}/manifest.json",
    }[where]
    data = bytearray(store.objects.get(path))
    data[len(data) // 2] ^= 1
    store.objects.put(path, bytes(data))
    ran = k15("verify", record.final_key)
    assert ran.code == 1
    assert store.objects.uri(path) in ran.err
    assert "Traceback" not in ran.err


def test_gc_removes_only_what_it_is_asked_to(own_run, k15):
    store, record = own_run
    assert k15("gc", "--dry-run", "--json").json["stages"] == []
    swept = k15("gc", "--keep", "sft", "--grace-s", "0", "--json").json
    kept = {manifest.node for manifest in store.manifests()}
    assert kept == {"data", "base", "pretrain", "activate", "sft"}
    assert record.final_key in swept["stages"]
    assert k15("verify", "sft").code == 0


def test_reindex_without_mlflow_is_one_line(on_finished):
    ran = on_finished("lineage", "--reindex")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1 and "127.0.0.1:1" in ran.err
