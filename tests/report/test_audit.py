"""The audit's page: printable, loading nothing, escaping what others wrote; recipes with what fields mean."""

import json

import pytest

from k15.recipes import KINDS
from k15.report.audit import digest_of, document, read
from k15.report.audit_page import audit_page
from k15.report.audit_words import DOES, NOT_RECORDED, recipe_rows
from tests.report.test_page import check_html


@pytest.fixture(scope="module")
def made(store, run_facts):
    manifest = store.manifest(run_facts.record.final_key)
    return document(read(store, manifest.ref()))


def test_the_page_is_well_formed_prints_and_loads_nothing(made):
    html = audit_page(made)
    check_html(html)
    assert "@media print" in html and "<details" not in html


def test_what_others_wrote_is_escaped(made):
    evil = "<script>alert(1)</script>"
    damaged = json.loads(json.dumps(made))
    damaged["model"]["name"] = damaged["sign_off"]["name"] = evil
    damaged["runs"][0]["started_by"] = damaged["stages"][0]["recipe"][0]["value"] = evil
    damaged["data"][0]["licenses"] = [{"of": evil, "license": evil}]
    damaged["evaluation"][0]["figures"]["models"][0]["name"] = evil
    html = audit_page(damaged)
    check_html(html)
    assert "<script" not in html and html.count("&lt;script&gt;") >= 7


def test_nothing_is_left_empty(made):
    html = audit_page(made)
    assert "<td></td>" not in html and "<dd></dd>" not in html
    lock = made["stages"][0]["provenance"]["lock_digest"]  # which this run does not have
    assert lock == NOT_RECORDED


def test_any_changed_value_changes_the_digest(made):
    assert digest_of(made) == made["digest"]
    changed = json.loads(json.dumps(made))
    assert digest_of(changed) == made["digest"]
    changed["evaluation"][0]["figures"]["models"][0]["sampled"] += 1e-9
    assert digest_of(changed) != made["digest"]


def test_every_kind_of_stage_has_its_sentence():
    assert DOES.keys() == KINDS.keys()


def test_recipe_values_carry_what_their_class_says_however_deep(store, run_facts):
    stages = {manifest.node: manifest for manifest in run_facts.lineage.values()}
    rows = {row["field"]: row for row in recipe_rows(stages["activate"])}
    assert rows["phases[0].length"]["value"] == 64
    for manifest in stages.values():
        rows = {row["field"]: row for row in recipe_rows(manifest)}
        for name, field in KINDS[manifest.kind].model_fields.items():
            found = [row for key, row in rows.items() if key.split(".")[0].split("[")[0] == name]
            assert found, (manifest.kind, name)
            if field.description and name in rows:
                assert rows[name]["description"] == field.description


def test_a_field_that_its_class_no_longer_has_is_still_told(run_facts):
    manifest = next(iter(run_facts.lineage.values()))
    old = manifest.model_copy(update={"recipe": {"gone": 1, **manifest.recipe}, "kind": "forgotten"})
    assert recipe_rows(old)[0] == {"field": "gone", "value": 1, "description": NOT_RECORDED}
