"""MLflow beside a stage: complete when it is there, harmless when it is not, rebuilt when it was lost."""

import json
import logging
import time
from uuid import uuid4

import pytest

from k15.store import facts, mirror
from k15.store.artifact import Store
from k15.store.job import Context, Job
from k15.store.manifest import InputRef, Manifest, Provenance
from k15.store.mirror import RunMirror
from k15.store.reindex import reindex
from k15.store.runs import NodeRecord, RunRecord, RunState, write_run
from k15.store.tracking import TrackingServer

AWAY = "http://127.0.0.1:1"
QUESTIONS = b'{"question": "1 + 1", "answer": "2"}\n'


class Pipeline:
    """data → sft → rl, each run as a stage runs: with a mirror beside it."""

    def __init__(self, store: Store, mlflow_uri: str, name: str) -> None:
        self.store, self.root = store, store.objects.settings.root
        self.record = RunRecord(
            run_id=name,
            pipeline=name,
            recipe="pipeline.toml",
            final="rl",
            nodes={node: NodeRecord(kind=node) for node in ("data", "sft", "rl")},
            started="2026-11-22T10:00:00+00:00",
            commit="c0ffee",
            prefect_flow_run_id="flow-1",
            prefect_url="http://127.0.0.1:4200/runs/flow-run/flow-1",
            mlflow_uri=mlflow_uri,
            mlflow_experiment=name,
        )

    def run(self, tmp_path) -> Manifest:
        """The whole pipeline; its final manifest."""
        parent = mirror.open_parent(self.record)
        self.record = self.record.model_copy(update={"mlflow_parent_run_id": parent})
        (tmp_path / "questions.jsonl").write_bytes(QUESTIONS)
        raw = self.store.ingest(tmp_path / "questions.jsonl")
        data = self.stage("data", {"questions": raw}, {"train/rows": b"t", "sft/rows": b"s"})
        model = {"model/config.json": b"{}", "model/model.safetensors": b"0"}
        sft = self.stage("sft", {"data": data.ref("sft")}, model)
        inputs = {"model": sft.ref("model"), "prompts": data.ref("train")}
        final = self.stage("rl", inputs, model | {"model/model.safetensors": b"1"})
        done = {
            name: node.model_copy(update={"state": RunState.DONE}) for name, node in self.record.nodes.items()
        }
        changes = {"state": RunState.DONE, "nodes": done, "ended": "2026-11-22T10:01:00+00:00"}
        self.record = self.record.model_copy(update=changes)
        write_run(self.store, self.record)
        mirror.register(self.record, {m.key: m for m in self.store.manifests()}, self.root)
        mirror.close_parent(self.record, {"lineage.mmd": b"flowchart LR\n"})
        return final

    def stage(self, node: str, inputs: dict[str, InputRef], files: dict[str, bytes]) -> Manifest:
        """One stage with its mirror."""
        record = self.record
        context = Context(
            run_id=record.run_id,
            prefect_flow_run_id="flow-1",
            mlflow_uri=record.mlflow_uri,
            mlflow_experiment=record.mlflow_experiment,
            mlflow_parent_run_id=record.mlflow_parent_run_id,
            commit="c0ffee",
            image_digest="sha256:1d",
        )
        recipe = {"steps": 3, "update": {"lr": 1e-4}}
        job = Job(node=node, kind=node, version=1, recipe=recipe, inputs=inputs, context=context)
        running = RunMirror.open(job, job.key, root=self.root)
        attempt = self.store.begin(job.key)
        for path, content in files.items():
            attempt.write_bytes(path, content)
        rows = [{"step": step, "loss": 1 / (step + 1), "odd": None} for step in range(3)]
        for row in rows:
            running.log(int(row["step"]), {"loss": row["loss"], "odd": float("nan")})
        attempt.write_bytes("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        times = {"started": "2026-11-22T10:00:00+00:00", "ended": "2026-11-22T10:00:20+00:00"}
        shared = ("run_id", "commit", "image_digest", "prefect_flow_run_id")
        provenance = Provenance(**{name: getattr(context, name) for name in shared}, **times)
        manifest = self.store.commit(attempt, job, provenance, {"final_loss": 0.25})
        running.finish(manifest, "FINISHED")
        nodes = {**self.record.nodes, node: NodeRecord(kind=node, key=job.key)}
        self.record = self.record.model_copy(update={"nodes": nodes})
        return manifest


def lineage_of_champion(uri, name):
    """What MLflow's own client says of the champion: every stage upstream, with what each read."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    version = client.get_model_version_by_alias(name, "champion")
    waiting, rows = [client.get_run(version.run_id).outputs.model_outputs[0].model_id], {}
    while waiting:
        model = client.get_logged_model(waiting.pop())
        run = client.get_run(model.source_run_id)
        tags = run.data.tags
        names = (
            "k15.stage",
            "k15.key",
            "git.commit",
            "k15.image_digest",
            "prefect.flow_run_id",
            "k15.digest",
        )
        rows[model.tags["k15.digest"]] = {
            **{name: tags[name] for name in names},
            "uri": model.tags["k15.uri"],
            "datasets": sorted((i.dataset.name, i.dataset.source) for i in run.inputs.dataset_inputs),
            "params": run.data.params,
            "loss": run.data.metrics["loss"],
            "summary": run.data.metrics["summary.final_loss"],
            "parent": client.get_run(tags["mlflow.parentRunId"]).data.tags["k15.run_id"],
        }
        waiting += [found.model_id for found in run.inputs.model_inputs]
    return version.tags["k15.digest"], rows


@pytest.mark.services
@pytest.mark.slow
def test_the_champion_leads_back_to_every_data_set_live_and_rebuilt_from_the_store(services, store, tmp_path):
    from mlflow import MlflowClient

    uri, name = services["MLFLOW_TRACKING_URI"], f"pipeline-{uuid4().hex[:8]}"
    final = Pipeline(store, uri, name).run(tmp_path)
    live = lineage_of_champion(uri, facts.model_name(name))
    digest, rows = live
    assert digest == final.digest
    assert {row["k15.stage"] for row in rows.values()} == {"sft", "rl"}
    assert {dataset[0] for row in rows.values() for dataset in row["datasets"]} == {"train", "sft"}
    assert all(row["params"] == {"steps": "3", "update.lr": "0.0001"} for row in rows.values())

    MlflowClient(uri).delete_registered_model(facts.model_name(name))
    with TrackingServer(uri) as server:
        server.call("POST", "experiments/delete", {"experiment_id": server.experiment(name)})
        first = reindex(store, server, f"{name}-rebuilt", lambda done, total: None)
        again = reindex(store, server, f"{name}-rebuilt", lambda done, total: None)
    assert (first.stages, first.stages_written, first.runs) == (3, 3, 1)
    assert again.stages_written == 0
    assert lineage_of_champion(uri, facts.model_name(name)) == live


@pytest.mark.services
@pytest.mark.slow
def test_a_run_left_by_a_killed_stage_is_ended_by_the_next_attempt(services):
    uri, name = services["MLFLOW_TRACKING_URI"], f"killed-{uuid4().hex[:8]}"
    context = Context(mlflow_uri=uri, mlflow_experiment=name)
    job = Job(node="sft", kind="sft", version=1, recipe={"steps": 3}, context=context)
    killed = RunMirror.open(job, job.key)
    deadline = time.monotonic() + 30
    while not killed.run_id and time.monotonic() < deadline:
        time.sleep(0.05)
    again = RunMirror.open(job, job.key)
    again.finish(None, "FAILED")
    with TrackingServer(uri) as server:
        ended = {
            run["info"]["run_id"]: run["info"]["status"] for run in server.search(server.experiment(name), "")
        }
    assert ended == {killed.run_id: "KILLED", again.run_id: "FAILED"}
    killed.finish(None, "KILLED")


def opened(services, name: str) -> tuple[str, RunMirror]:
    """The server's address, and the mirror of a stage in an experiment of its own."""
    uri = services["MLFLOW_TRACKING_URI"]
    context = Context(mlflow_uri=uri, mlflow_experiment=f"{name}-{uuid4().hex[:8]}")
    job = Job(node="rl", kind="rl", version=1, recipe={}, context=context)
    return uri, RunMirror.open(job, job.key)


@pytest.mark.services
def test_a_name_that_mlflow_refuses_costs_no_other_metric(services, caplog):
    uri, running = opened(services, "names")
    running.log(0, {"pass_rate/a+b (c)": 0.5, "loss": 1.0})
    running.finish(None, "FINISHED")
    assert not caplog.records
    with TrackingServer(uri) as server:
        metrics = {row["key"]: row["value"] for row in server.run(running.run_id)["data"]["metrics"]}
    assert metrics == {"pass_rate/a_b _c_": 0.5, "loss": 1.0}


@pytest.mark.services
def test_what_mlflow_refuses_holds_nothing_up(services, caplog):
    uri, running = opened(services, "refused")
    running.log(0, {"x" * 1000: 0.5})
    deadline = time.monotonic() + 30
    while not caplog.records and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "--reindex" in caplog.text
    running.log(1, {"loss": 1.0})
    running.finish(None, "FINISHED")
    with TrackingServer(uri) as server:
        run = server.run(running.run_id)
    assert [row["key"] for row in run["data"]["metrics"]] == ["loss"]
    assert run["info"]["status"] == "FINISHED"


def test_an_absent_server_is_one_warning_and_no_delay(caplog):
    context = Context(mlflow_uri=AWAY)
    job = Job(node="sft", kind="sft", version=1, recipe={}, context=context)
    began = time.monotonic()
    running = RunMirror.open(job, job.key)
    with caplog.at_level(logging.WARNING):
        for step in range(100):
            running.log(step, {"loss": 1.0})
        assert time.monotonic() - began < 1
        running.finish(None, "FAILED")
    assert time.monotonic() - began < 10
    (warning,) = caplog.records
    assert "--reindex" in warning.getMessage() and AWAY in warning.getMessage()
    assert running.run_id == ""


def test_an_absent_server_does_not_stop_a_pipeline(caplog, store, tmp_path):
    pipeline = Pipeline(store, AWAY, "away")
    assert pipeline.run(tmp_path).node == "rl"
    assert pipeline.record.mlflow_parent_run_id == ""
    assert all("--reindex" in record.getMessage() for record in caplog.records)


def test_no_server_named_means_no_thread():
    running = RunMirror.open(Job(node="a", kind="a", version=1, recipe={}), "key")
    running.log(0, {"loss": 1.0})
    began = time.monotonic()
    running.finish(None, "FINISHED")
    assert time.monotonic() - began < 0.1
