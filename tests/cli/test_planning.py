"""What a run would do and why; and the run itself, handed over to the flow's process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import uuid4

import pytest

from k15.store.artifact import Store
from k15.store.manifest import Provenance
from k15.store.plan import load_pipeline, resolve_job

RECIPE = """
name = "two"
final = "base"

[nodes.data]
kind = "data"
recipe = {{ num_train = 40, num_heldout = {heldout} }}

[nodes.base]
kind = "base"
inputs = {{ data = "data" }}
"""

FLOW = """
import json, os, signal, sys, time
if "wait" in sys.argv[1]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    print("ready", flush=True)
    time.sleep(30)
print(json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd(), "s3": os.environ["K15_S3_ENDPOINT"]}))
sys.exit(7)
"""


@pytest.fixture
def recipe(tmp_path, use_store, seaweed):
    """A pipeline of two nodes, and an empty store."""
    use_store(seaweed.environment | {"K15_S3_PREFIX": f"plan/{uuid4()}"})
    path = tmp_path / "two.toml"
    path.write_text(RECIPE.format(heldout=9))
    return path


def finish(path, node):
    """Commit a node's result as its stage would."""
    store = Store.from_environment(os.environ)
    pipeline = load_pipeline(path)
    done = {manifest.node: manifest for manifest in store.manifests()}
    job = resolve_job(store, pipeline, node, done, {})
    attempt = store.begin(job.key)
    attempt.write_json("model/config.json", {})
    store.commit(attempt, job, Provenance(ended=f"2026-01-0{1 + len(done)}T00:00:00"), {})


def statuses(rows):
    return {row["node"]: row["status"] for row in rows}


def test_plan_says_done_will_run_and_decided_later(recipe, k15):
    assert statuses(k15("plan", str(recipe), "--json").json) == {"data": "will run", "base": "decided later"}
    finish(recipe, "data")
    assert statuses(k15("plan", str(recipe), "--json").json) == {"data": "done", "base": "will run"}
    finish(recipe, "base")
    ran = k15("plan", str(recipe))
    assert ran.code == 0 and ran.out.count(" done ") == 2


def test_plan_and_why_name_the_field_that_changed(recipe, k15):
    finish(recipe, "data")
    change = ("--set", "nodes.data.recipe.num_heldout=10")
    assert "recipe.num_heldout: 9 → 10" in k15("plan", str(recipe), *change).out
    assert "recipe.num_heldout: 9 → 10" in k15("why", "data", "--recipe", str(recipe), *change).out
    why = k15("why", "data", "--recipe", str(recipe), *change, "--json").json
    assert [row["field"] for row in why["row"]["changed"]] == ["recipe.num_heldout"]


def test_resources_change_nothing(recipe, k15):
    finish(recipe, "data")
    rows = k15("plan", str(recipe), "--set", "nodes.data.resources.cores=2", "--json").json
    assert statuses(rows)["data"] == "done"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("nodes.data.recipe.num_trian=3", "nodes.data.recipe.num_trian"),
        ("nodes.data.recipe.num_train=many", "nodes.data.recipe.num_train"),
        ("nodes.data.kind=dada", "nodes.data.kind"),
        ("nodes.data.recipe.num_train", "--set nodes.data.recipe.num_train"),
    ],
)
def test_bad_input_names_the_field(recipe, k15, override, named):
    ran = k15("plan", str(recipe), "--set", override)
    assert ran.code == 2 and named in ran.err and "Traceback" not in ran.err


@pytest.mark.usefixtures("recipe")
def test_a_missing_recipe_is_named(k15):
    ran = k15("plan", "nowhere.toml")
    assert ran.code == 2 and "nowhere.toml" in ran.err


def test_an_unreachable_store_is_named_with_its_remedy(recipe, k15, monkeypatch):
    monkeypatch.setenv("K15_S3_ENDPOINT", "http://127.0.0.1:9")
    ran = k15("plan", str(recipe))
    assert ran.code == 2 and "127.0.0.1:9" in ran.err and "make up" in ran.err


def test_what_needs_only_the_store_asks_for_no_other_service(
    finished, finished_environment, recipe, k15, monkeypatch
):
    for name, value in finished_environment.items():
        monkeypatch.setenv(name, value)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name)
    root = str(recipe.parent)  # where no service was ever started
    why = ("why", "data", "--recipe", str(recipe))
    commands = (("ls",), ("show", "sft"), ("lineage",), ("verify",), ("plan", str(recipe)), why, ("report",))
    for command in commands:
        ran = k15(*command, "--root", root, *(("--out", root) if command == ("report",) else ()))
        assert ran.code == 0, (command, ran.err)
    for command, needed in ((("run", str(recipe)), "prefect"), (("lineage", "--reindex"), "mlflow")):
        ran = k15(*command, "--root", root)
        assert ran.code == 2 and f"no local {needed} service is up" in ran.err


@pytest.mark.usefixtures("recipe")
def test_an_absent_prefect_server_is_named_with_its_remedy(k15, tmp_path):
    ran = k15("run", str(tmp_path / "two.toml"))
    assert ran.code == 2 and "PREFECT_API_URL=http://127.0.0.1:1/api" in ran.err and "make up" in ran.err


@pytest.mark.usefixtures("recipe")
def test_debug_shows_the_trace_and_changes_no_exit_code(k15):
    ran = k15("show", "nowhere", "--debug")
    assert ran.code == 2
    assert "Traceback" in ran.err and ran.err.splitlines()[-1].startswith("k15: error: nowhere")


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose flow only tells how it was started."""
    for folder in ("flows", "stages", "recipes/two"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "flows" / "__init__.py").touch()
    (tmp_path / "flows" / "pipeline.py").write_text(FLOW)
    for name in ("two", "wait"):
        (tmp_path / "recipes" / name).mkdir(exist_ok=True)
        (tmp_path / "recipes" / name / "pipeline.toml").write_text(RECIPE.format(heldout=9))
    return tmp_path


@pytest.fixture
def prefect():
    """The address of a server that answers, which is all that `k15 run` asks of it."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def start(checkout, prefect, *arguments):
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-m", "k15.cli.main", "run", *arguments],
        cwd=checkout / "recipes",
        env=os.environ | {"PYTHONPATH": root, "PREFECT_API_URL": f"{prefect}/api"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("recipe")
def test_run_becomes_the_flow_with_its_exit_code(checkout, prefect):
    process = start(checkout, prefect, "two", "--set", "nodes.data.recipe.num_train=3", "--strict", "--debug")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 7
    recipe, *options = json.loads(printed)["arguments"]
    assert recipe == "recipes/two/pipeline.toml"
    assert options == [
        "--runtime=process",
        "--set=nodes.data.recipe.num_train=3",
        "--strict",
        "--debug",
    ]
    assert f'"folder": "{checkout}"' in printed


@pytest.mark.usefixtures("recipe")
def test_a_signal_reaches_the_flow(checkout, prefect):
    process = start(checkout, prefect, "wait")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 130
    assert time.monotonic() - began < 10
    process.stdout.close()
