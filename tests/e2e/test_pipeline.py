"""The whole pipeline on real engines and servers: run, rerun, change, audit, break."""

import json
import time
from pathlib import Path

import pytest

from k15.store.artifact import Store
from k15.store.runs import latest_run
from tests.e2e.driver import Cli

UPSTREAM = ("data", "base", "pretrain", "activate", "sft", "longcot", "control")
DOWNSTREAM = ("rl", "short", "merge", "evaluate")


def by_node(rows):
    return {row["node"]: row for row in rows}


def node_states(store: Store) -> dict[str, bool]:
    """Whether each node of the newest run was cached."""
    return {name: node.cached for name, node in latest_run(store).nodes.items()}


def manifest_of(store: Store, cli: Cli, recipe: Path, node: str):
    return store.manifest(by_node(cli.json("plan", str(recipe)))[node]["key"])


def test_a_second_run_finds_every_stage_done(cli: Cli, store: Store, whole_run):
    began = time.monotonic()
    again = cli.run("run", str(whole_run))
    seconds = time.monotonic() - began
    assert again.returncode == 0, again.stdout + again.stderr
    assert all(node_states(store).values())
    print(f"second run: {seconds:.1f} s")


def test_every_kind_of_stage_ran(cli: Cli, whole_run):
    rows = by_node(cli.json("plan", str(whole_run)))
    assert set(rows) == {*UPSTREAM, *DOWNSTREAM}
    assert {row["status"] for row in rows.values()} == {"done"}


def test_the_final_model_is_the_registered_champion(cli: Cli, store: Store, whole_run, mlflow_client):
    final = manifest_of(store, cli, whole_run, "short")
    versions = [v for m in mlflow_client.search_registered_models() for v in [m.aliases.get("champion")] if v]
    assert versions
    report = json.loads((Path(cli.env["K15_OUT"]) / "report.json").read_text())
    assert final.key in report["model_uri"]


def test_every_round_and_step_is_in_mlflow(cli: Cli, store: Store, whole_run, mlflow_client):
    experiments = [experiment.experiment_id for experiment in mlflow_client.search_experiments()]
    for node, file, name in (
        ("rl", "rounds.jsonl", "staleness/4_or_more"),
        ("rl", "rounds.jsonl", "pass_rate"),
        ("sft", "metrics.jsonl", "loss"),
    ):
        manifest = manifest_of(store, cli, whole_run, node)
        rows = [json.loads(line) for line in store.open(manifest.ref()).read_bytes(file).splitlines()]
        expected = [row[name] for row in rows if row.get(name) is not None]
        (run,) = mlflow_client.search_runs(experiments, f"tags.`k15.digest` = '{manifest.digest}'")
        history = mlflow_client.get_metric_history(run.info.run_id, name)
        assert expected and [metric.value for metric in history] == pytest.approx(expected)


def test_the_report_holds_models_and_stages(cli: Cli, whole_run):
    report = json.loads((Path(cli.env["K15_OUT"]) / "report.json").read_text())
    assert {model["name"] for model in report["models"]} == {"longcot", "control", "rl", "merge", "short"}
    assert {stage["name"] for stage in report["stages"]} == {*UPSTREAM, *DOWNSTREAM}
    page = (Path(cli.env["K15_OUT"]) / "report.html").read_text()
    assert "http-equiv" not in page and "<script src" not in page and "<link" not in page


def test_changing_an_rl_field_reruns_rl_and_what_follows_only(cli: Cli, whole_run):
    changed = "--set=nodes.rl.recipe.update.tau=0.2"
    rows = by_node(cli.json("plan", str(whole_run), changed))
    assert {rows[name]["status"] for name in UPSTREAM} == {"done"}
    assert rows["rl"]["status"] == "will run"
    assert {rows[name]["status"] for name in ("short", "merge", "evaluate")} == {"decided later"}
    explained = cli.run("why", "rl", "--recipe", str(whole_run), changed)
    assert explained.returncode == 0 and "update.tau" in explained.stdout


def test_changing_resources_reruns_nothing(cli: Cli, whole_run):
    rows = cli.json(
        "plan", str(whole_run), "--set=nodes.rl.resources.cores=2", "--set=nodes.rl.resources.retries=0"
    )
    assert {row["status"] for row in rows} == {"done"}


def test_lineage_reaches_the_raw_data_and_names_every_stage(cli: Cli, store: Store, whole_run):
    final = manifest_of(store, cli, whole_run, "short")
    printed = cli.run("lineage", f"s3://k15/{cli.env['K15_S3_PREFIX']}/stages/{final.key}")
    assert printed.returncode == 0, printed.stderr
    for name in ("short", "rl", "longcot", "sft", "activate", "pretrain", "base", "data"):
        assert name in printed.stdout
    assert final.digest[:19] in printed.stdout
    assert final.provenance.commit[:8] in printed.stdout


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--set=nodes.rl.recipe.rouns=3",), "nodes.rl.recipe"),
        (("--set=nodes.rl.recipe.rounds='three'",), "rounds"),
        (("--set=nodes.rl.kind='rll'",), "rll"),
        (("--set=nodes.data.files.questions='/nowhere.jsonl'",), "/nowhere.jsonl"),
        (("--set=final='nobody'",), "nobody"),
    ],
)
def test_bad_recipes_are_refused_in_one_message(cli: Cli, whole_run, arguments, names):
    done = cli.run("run", str(whole_run), *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert names in done.stderr and "Traceback" not in done.stdout + done.stderr


def test_an_unreachable_store_is_refused_in_one_message(cli: Cli, whole_run):
    elsewhere = Cli({**cli.env, "K15_S3_ENDPOINT": "http://127.0.0.1:9"}, cli.log)
    done = elsewhere.run("plan", str(whole_run))
    assert done.returncode == 2
    assert "127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr


def test_refused_credentials_are_named(cli: Cli, whole_run):
    stranger = Cli({**cli.env, "AWS_SECRET_ACCESS_KEY": "wrong-secret"}, cli.log)
    done = stranger.run("plan", str(whole_run))
    assert done.returncode == 2
    assert "AWS_SECRET_ACCESS_KEY" in done.stderr and "wrong-secret" not in done.stdout + done.stderr


def test_verify_catches_one_flipped_byte_anywhere_upstream(cli: Cli, store: Store, whole_run):
    final = manifest_of(store, cli, whole_run, "short")
    address = f"s3://k15/{cli.env['K15_S3_PREFIX']}/stages/{final.key}"
    assert cli.run("verify", address).returncode == 0
    data = manifest_of(store, cli, whole_run, "data")
    entry = next(file for file in data.files if file.path.startswith("train/"))
    path = f"attempts/{data.key}/{data.attempt}/{entry.path}"
    whole = store.objects.get(path)
    store.objects.put(path, whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        done = cli.run("verify", address)
        assert done.returncode == 1
        assert entry.path in done.stdout + done.stderr
    finally:
        store.objects.put(path, whole)
