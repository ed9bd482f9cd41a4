"""Who or what made a run start, in words, for its record."""

import getpass
import os
import socket

from prefect.context import FlowRunContext
from prefect.runtime import deployment


def started_by() -> str:
    """Of the flow run this is called in: its deployment and what made that start, or whose command it was."""
    context = FlowRunContext.get()
    run = context.flow_run if context is not None else None
    if run is None or run.deployment_id is None:
        return f"k15 run by {_user()}@{socket.gethostname()}"
    if run.auto_scheduled:
        return f"deployment {deployment.name}, by schedule"
    person = run.created_by.display_value if run.created_by is not None else None
    return f"deployment {deployment.name}, on request" + (f" of {person}" if person else "")


def _user() -> str:
    """The login name; the number where the machine has none for it, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
