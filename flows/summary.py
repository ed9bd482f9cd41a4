"""How a run went, as a table for the terminal and as Prefect artifacts."""

import os
from collections.abc import Mapping

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from k15.store.artifact import Store
from k15.store.runs import NodeRecord, RunRecord


def run_table(record: RunRecord) -> str:
    """One line per stage, then where to look."""
    names = max(len(name) for name in record.nodes)
    lines = [f"run {record.run_id}: {record.state} in {record.seconds:.1f} s"]
    lines += [
        f"  {name:{names}}  {_state(node):10}{_seconds(node):>9}  {node.key[:12]}"
        for name, node in record.nodes.items()
    ]
    pages = links(record) | ({"report": f"{report_folder(os.environ)}/report.html"} if record.done else {})
    lines += [f"{name:8} {url}" for name, url in pages.items()]
    return "\n".join(lines)


def report_folder(environment: Mapping[str, str]) -> str:
    """Where `k15 report` puts a run's report."""
    return environment.get("K15_OUT") or "out"


def links(record: RunRecord) -> dict[str, str]:
    """The pages of the services that show this run."""
    pages = {"Prefect": record.prefect_url}
    if record.mlflow_parent_run_id:
        pages["MLflow"] = f"{record.mlflow_uri}/#/runs/{record.mlflow_parent_run_id}"
    if record.mlflow_parent_run_id and record.done:
        query = f"path=report.html&run_uuid={record.mlflow_parent_run_id}"
        pages["report"] = f"{record.mlflow_uri}/get-artifact?{query}"
    return {name: url for name, url in pages.items() if url}


def publish(record: RunRecord, store: Store) -> None:
    """The table of stages, and links to MLflow and the report, as artifacts of the flow run."""
    rows = ["| stage | state | seconds | artifact |", "|---|---|---:|---|"]
    rows += [
        f"| {name} | {_state(node)} | {node.seconds:.1f} | {f'`{store.uri(node.key)}`' if node.key else ''} |"
        for name, node in record.nodes.items()
    ]
    table = "\n".join([f"# Run {record.run_id}: {record.state}", "", *rows])
    create_markdown_artifact(table, key="k15-run", description=f"{record.pipeline}, run {record.run_id}")
    for name, url in links(record).items():
        if name != "Prefect":
            create_link_artifact(url, link_text=f"{name} of run {record.run_id}", key=f"k15-{name.lower()}")


def _state(node: NodeRecord) -> str:
    return "Cached" if node.cached else str(node.state)


def _seconds(node: NodeRecord) -> str:
    return f"{node.seconds:.1f} s" if node.seconds else ""
