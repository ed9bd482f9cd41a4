"""The Prefect automation that marks a killed flow as crashed.

A flow run sends a heartbeat every 30 s. One that sends none for 75 s, and did not end, was killed: the
server looks every few seconds, so it is marked within 90 s. One late heartbeat of a busy machine is forgiven.
"""

import json
from typing import Any

from infra.local.services import fetch

NAME = "k15: mark killed flows as crashed"
SILENCE_S = 75.0
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = [f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")]


def ensure_crash_automation(api: str) -> None:
    """Create or correct the automation on the Prefect server at `api`; ValueError where it refuses."""
    wanted = _automation()
    status, body = fetch(
        f"{api}/automations/filter", {"automations": {"name": {"any_": [NAME]}}}, timeout_s=20
    )
    if status != 200:
        raise ValueError(f"Prefect at {api} does not list its automations (status {status})")
    if any(_same(found, wanted) for found in json.loads(body)):
        return
    status, body = fetch(f"{api}/automations/", wanted, timeout_s=20)
    if status not in (200, 201):
        raise ValueError(
            f"Prefect at {api} refused the crash automation: {body.decode(errors='replace')[:300]}"
        )


def _same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    trigger = found["trigger"]
    return found["enabled"] is True and trigger["within"] == SILENCE_S and found["name"] == wanted["name"]


def _automation() -> dict[str, Any]:
    return {
        "name": NAME,
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Proactive",
            "match": {"prefect.resource.id": ["prefect.flow-run.*"]},
            "for_each": ["prefect.resource.id"],
            "after": [HEARTBEAT],
            "expect": [HEARTBEAT, *ENDS],
            "threshold": 1,
            "within": SILENCE_S,
        },
        "actions": [{"type": "change-flow-run-state", "state": "CRASHED", "message": "heartbeat lost"}],
    }
