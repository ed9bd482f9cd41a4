"""The facts of a run as the plain values of report.json."""

from typing import Any

from k15.report.facts import Measure, Model, Pair, RunFacts, Stage


def report_json(facts: RunFacts) -> dict[str, Any]:
    """report.json: flat enough for a script to read."""
    idle, record = facts.orchestration, facts.record
    return {
        "run_id": record.run_id,
        "pipeline": record.pipeline,
        "state": str(record.state),
        "started": record.started,
        "ended": record.ended,
        "seconds": record.seconds,
        "commit": record.commit,
        "prefect_flow_run_id": record.prefect_flow_run_id,
        "prefect_url": record.prefect_url,
        "mlflow_uri": record.mlflow_uri,
        "mlflow_run_id": record.mlflow_parent_run_id,
        "model_uri": facts.model_uri,
        "models": [_model_json(model) for model in facts.models],
        "pairs": [_pair_json(pair) for pair in facts.pairs],
        "stages": [_stage_json(stage) for stage in facts.stages],
        "orchestration_s": idle.seconds if idle else None,
        "orchestration_share": idle.share if idle else None,
        "orchestration_rounds": idle.num_rounds if idle else 0,
        "context": [dict(report) for report in facts.contexts],
        "rounds": {phase.name: [dict(row) for row in phase.rounds] for phase in facts.phases},
    }


def _model_json(model: Model) -> dict[str, Any]:
    row: dict[str, Any] = {"name": model.name, "key": model.key, "n": model.n, "unjudged": model.unjudged}
    for name in ("sampled", "greedy", "tokens"):
        measure: Measure = getattr(model, name)
        row |= {name: measure.value, f"{name}_low": measure.low, f"{name}_high": measure.high}
    return row | {"by_task": dict(model.by_task)}


def _pair_json(pair: Pair) -> dict[str, Any]:
    row: dict[str, Any] = {"first": pair.first, "second": pair.second}
    for name, measure in (("sampled", pair.sampled), ("tokens", pair.tokens)):
        row |= {f"{name}_difference": measure.value, f"{name}_low": measure.low, f"{name}_high": measure.high}
    return row


def _stage_json(stage: Stage) -> dict[str, Any]:
    return {
        "name": stage.name,
        "kind": stage.kind,
        "key": stage.key,
        "state": stage.state,
        "cached": stage.cached,
        "seconds": stage.seconds,
        "made_seconds": stage.made_seconds,
        "digest": stage.manifest.digest if stage.manifest else "",
        "commit": stage.manifest.provenance.commit if stage.manifest else "",
    }
