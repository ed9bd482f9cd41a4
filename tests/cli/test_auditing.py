"""`k15 audit`: all there is to know of a model in two files that agree, and whether it still is that."""

import hashlib
import json
import re
from html import unescape
from uuid import uuid4

import pytest

from k15.store.artifact import Store
from k15.store.manifest import canonical
from tests.finished_run import COMMIT, MODELS, RAW_KEY, write_finished_run

STAGES = {"data", "base", "pretrain", "activate", "sft", "longcot", "rl", "short"}


@pytest.fixture
def own_store(seaweed, use_store):
    """An empty store that the command uses."""
    environment = seaweed.environment | {"K15_S3_PREFIX": f"audit/{uuid4()}"}
    use_store(environment)
    return Store.from_environment(environment)


@pytest.fixture
def own_run(own_store):
    """A finished run that a test may damage or add to."""
    return own_store, write_finished_run(own_store, rounds=2)


def flip(store, path):
    data = bytearray(store.objects.get(path))
    data[len(data) // 2] ^= 1
    store.objects.put(path, bytes(data))


def text_of(html):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html.split("</style>")[1])))


def test_both_files_hold_every_stage_digest_licence_and_metric(on_finished, finished, tmp_path):
    store, record = finished
    ran = on_finished("audit", "short", "--no-upload", "--out", str(tmp_path))
    assert (ran.code, ran.err) == (0, "")
    made = json.loads((tmp_path / "audit-short.json").read_text())
    html = text_of((tmp_path / "audit-short.html").read_text())
    assert {stage["name"] for stage in made["stages"] if stage["made_the_model"]} == STAGES
    assert {stage["name"] for stage in made["stages"]} == record.nodes.keys()
    for stage in made["stages"]:
        manifest = store.manifest(stage["key"])
        for digest in (manifest.key, manifest.digest, COMMIT, manifest.provenance.image_digest):
            assert digest in html and digest in json.dumps(stage)
        for row in stage["recipe"]:
            assert f"{row['field']} {json.dumps(row['value'])} {row['description']}" in html
    assert made["data"][0]["licenses"] == [{"of": "file questions", "license": "CC-BY-4.0"}]
    raw = made["data"][0]
    assert (raw["rows"], raw["digest"]) == (1, f"sha256:{RAW_KEY}")
    assert "file questions of data: CC-BY-4.0" in html
    (figures,) = made["evaluation"]
    assert {row["name"] for row in figures["figures"]["models"]} == MODELS.keys()
    for row in figures["figures"]["models"]:
        assert all(
            f"{row[name]}" in html for name in ("sampled", "sampled_low", "sampled_high", "tokens_high")
        )
        assert all(f"{value}" in html for value in row["by_task"].values())
    assert made["runs"][0]["started_by"] == "k15 run by tester@test" and "k15 run by tester@test" in html


def test_the_json_ends_with_the_digest_that_the_page_shows(own_run, k15, tmp_path):
    store, record = own_run
    k15("audit", "short", "--signed-by", "A. <Person>", "--out", str(tmp_path))
    made = json.loads((tmp_path / "audit-short.json").read_text())
    html = (tmp_path / "audit-short.html").read_text()
    assert list(made)[-1] == "digest"
    content = {name: value for name, value in made.items() if name != "digest"}
    assert made["digest"] == f"sha256:{hashlib.sha256(canonical(content)).hexdigest()}"
    assert made["digest"] in html
    assert made["sign_off"]["name"] == "A. <Person>" and "A. &lt;Person&gt;" in html
    assert made["sign_off"]["decision"] == "to be filled in"
    uploaded = json.loads(store.objects.get(f"runs/{record.run_id}/audit-short.json"))
    assert uploaded == made
    assert store.objects.get(f"runs/{record.run_id}/audit-short.html").decode() == html


@pytest.mark.parametrize("what", ["weights", "raw", "manifest", "evaluation"])
def test_a_flipped_byte_is_exit_code_1_and_named_in_both_files(own_run, k15, tmp_path, what):
    store, record = own_run
    sft, evaluate = (store.manifest(record.nodes[name].key) for name in ("sft", "evaluate"))
    path = {
        "weights": f"attempts/{sft.key}/{sft.attempt}/model/model.safetensors",
        "raw": f"raw/{RAW_KEY}",
        "manifest": f"stages/{sft.key}/manifest.json",
        "evaluation": f"attempts/{evaluate.key}/{evaluate.attempt}/evaluation.json",
    }[what]
    flip(store, path)
    ran = k15("audit", record.final_key, "--no-upload", "--out", str(tmp_path))
    assert ran.code == 1
    assert store.objects.uri(path) in ran.err and "Traceback" not in ran.err
    made = json.loads((tmp_path / "audit-short.json").read_text())
    assert not made["verification"]["passed"]
    html = text_of((tmp_path / "audit-short.html").read_text())
    for problem in made["verification"]["problems"]:
        assert problem["uri"] in html and re.sub(r"\s+", " ", problem["what"]) in html
    assert "is not what its records say" in html


def test_nothing_is_uploaded_without_leave(on_finished, finished, tmp_path):
    store, record = finished
    shown = on_finished("audit", "sft", "--no-upload", "--out", str(tmp_path), "--json").json
    assert shown == json.loads((tmp_path / "audit-sft.json").read_text())
    assert not any("audit" in info.path for info in store.objects.list(f"runs/{record.run_id}/"))


def test_an_unknown_model_is_bad_input(on_finished, tmp_path):
    ran = on_finished("audit", "nothing", "--out", str(tmp_path / "none"))
    assert ran.code == 2 and "nothing" in ran.err
    assert not (tmp_path / "none").exists()


def test_a_run_from_before_licences_were_recorded_is_audited(own_store, k15, tmp_path):
    record = write_finished_run(own_store, rounds=2, licenses={})
    data = record.nodes["data"].key
    assert b'"licenses"' not in own_store.objects.get(f"stages/{data}/manifest.json")
    ran = k15("audit", "short", "--no-upload", "--out", str(tmp_path), "--json")
    assert ran.code == 0
    assert ran.json["data"][0]["licenses"] == [{"of": "file questions", "license": "not recorded"}]
    assert "file questions of data: not recorded" in text_of((tmp_path / "audit-short.html").read_text())
