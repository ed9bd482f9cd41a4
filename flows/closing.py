"""The end of a run: the final model registered, the report written."""

import os
import subprocess
import sys
from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.session import Session
from flows.summary import report_folder
from k15.store.mirror import register


def report_run(session: Session) -> State[Any]:
    """Register the final model and run `k15 report`; its table of models goes to Prefect and the terminal."""
    logger = get_run_logger()
    record = session.ledger.record
    try:
        manifests = {manifest.key: manifest for manifest in session.store.manifests()}
    except ValueError as error:
        return Failed(message=str(error))
    version = register(record, manifests, session.store.objects.settings.root)
    logger.info("registered %s: version %s is champion", record.pipeline, version or "(none, MLflow is away)")
    command = [sys.executable, "-m", "k15.cli.main", "report", "--run", session.context.run_id]
    done = subprocess.run(
        command,
        cwd=session.root,
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    logger.info("k15 report:\n%s", done.stdout.rstrip())
    if done.returncode:
        return Failed(message=f"k15 report: exit code {done.returncode}:\n{done.stdout[-2000:]}")
    return Completed(message=f"{report_folder(os.environ)}/report.html")
