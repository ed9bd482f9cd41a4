"""What a report says of a run equals what the run left in the store."""

import json
from dataclasses import replace

import pytest

from k15.report.facts import collect, orchestration
from k15.report.findings import gains, headline, tiles
from k15.report.values import report_json
from k15.store.runs import RunState
from tests.finished_run import MODELS, SECONDS


def test_models_come_in_the_order_they_were_made(run_facts):
    assert [model.name for model in run_facts.models] == ["sft", "longcot", "control", "rl", "merge", "short"]
    for model in run_facts.models:
        measured = (model.sampled.value, model.greedy.value, model.tokens.value)
        assert measured == pytest.approx(MODELS[model.name])
        assert run_facts.record.nodes[model.name].key == model.key


def test_differences_are_signed_whichever_way_they_are_stored(run_facts):
    there, back = run_facts.difference("rl", "longcot"), run_facts.difference("longcot", "rl")
    assert there.sampled.value == pytest.approx(MODELS["rl"][0] - MODELS["longcot"][0])
    assert back.sampled.value == -there.sampled.value
    assert (back.sampled.low, back.sampled.high) == (-there.sampled.high, -there.sampled.low)


def test_orchestration_is_what_no_phase_used():
    row = {"rollout_s": 1.0, "reward_s": 0.5, "train_s": 2.0, "publish_s": 0.2, "wall_s": 4.0}
    found = orchestration([row, {**row, "wall_s": 3.5}, {**row, "wall_s": 7.0}])
    assert (found.seconds, found.num_rounds) == (0.5, 3)
    assert found.share == pytest.approx(0.5 / 4.0)
    assert orchestration([]) is None


def test_report_json_has_the_facts_scripts_read(run_facts):
    values = json.loads(json.dumps(report_json(run_facts)))
    assert values["model_uri"].endswith(run_facts.record.nodes["short"].key)
    assert {"name", "sampled", "sampled_low", "sampled_high", "greedy", "tokens", "n"} <= values["models"][
        0
    ].keys()
    seconds = {stage["name"]: stage["seconds"] for stage in values["stages"]}
    assert seconds == SECONDS
    assert all({"name", "key", "seconds", "cached"} <= stage.keys() for stage in values["stages"])
    assert 0 < values["orchestration_share"] < 0.1 and 0 < values["orchestration_s"] < 1
    assert len(values["rounds"]["rl"]) == 12


def test_gains_are_measured_against_the_model_each_phase_started_from(run_facts):
    first, second = gains(run_facts)
    assert (first.before.name, first.after.name, first.cuts_length) == ("longcot", "rl", False)
    assert (second.before.name, second.after.name, second.cuts_length) == ("rl", "short", True)
    assert second.tokens.value == pytest.approx(16.9 / 25.0 - 1)
    assert "48.4%" in headline(run_facts) and "32% of the tokens" in headline(run_facts)
    names = [tile.name for tile in tiles(run_facts)]
    assert "rl over control" in names and "Orchestration of a round" in names


def test_the_headline_says_where_a_change_is_within_the_noise(run_facts):
    def widened(pair):
        return replace(pair, sampled=replace(pair.sampled, low=-1.0, high=1.0))

    noisy = replace(run_facts, pairs=tuple(widened(pair) for pair in run_facts.pairs))
    assert "48.4%</em>, within the noise" in headline(noisy)
    assert "within the noise" not in headline(run_facts)


def test_a_failed_run_reports_what_there_is(store, run_facts):
    nodes = dict(run_facts.record.nodes)
    for name in ("rl", "short", "merge", "evaluate"):
        nodes[name] = nodes[name].model_copy(update={"key": "", "state": RunState.NOT_RUN})
    facts = collect(store, run_facts.record.model_copy(update={"nodes": nodes, "state": RunState.FAILED}))
    assert facts.models == () and facts.phases == () and facts.orchestration is None
    assert facts.model_uri == ""
    values = report_json(facts)
    assert values["orchestration_s"] is None
    assert {stage["name"]: stage["state"] for stage in values["stages"]}["rl"] == "not run"


def test_without_rl_the_headline_names_the_best_model(run_facts):
    assert "sft" in headline(replace(run_facts, phases=()))
