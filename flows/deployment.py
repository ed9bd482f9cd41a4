"""A pipeline as a Prefect deployment, and the server that starts its runs."""

import asyncio
import os
import signal
import sys
from typing import Any

from prefect import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.runner import Runner
from prefect.settings import PREFECT_UI_URL
from pydantic import ValidationError

from flows.pipeline import check, pipeline

LOOK_AGAIN_S = 1.0


class Server(Runner):
    """Starts a deployment's runs, one at a time.

    SIGTERM and SIGINT cancel the run under way, pause the schedule and end the server: no process is left.
    (Prefect's own handler never awaits its stop, so the server would wait for the run to end by itself.)
    """

    def handle_sigterm(self, *_args: Any, **_kwargs: Any) -> None:
        """Begin the end; a second signal changes nothing."""
        if self.started:
            self.execute_in_background(self._end)
        elif not self.stopping:
            sys.exit(0)

    async def _end(self) -> None:
        await self.astop()
        while True:  # until the loop is over: a run may have been just about to start
            await self.cancel_all()
            await asyncio.sleep(LOOK_AGAIN_S)


def deploy(name: str, recipe: str, overrides: list[str], cron: str | None) -> Server:
    """Create or replace the deployment `name` of the flow; the server of its runs, not yet started.

    ValueError where the recipe or the schedule is wrong, or Prefect or the store does not answer.
    """
    check(recipe, overrides, os.environ)
    schedules = _schedules(cron)
    with get_client(sync_client=True) as client:
        if error := client.api_healthcheck():
            raise ValueError(
                f"{client.api_url}: no Prefect server answers ({type(error).__name__}); run `make up`"
            )
    server = Server(name=name, limit=1)
    parameters = {"recipe": recipe, "overrides": overrides}
    identity = server.add_flow(pipeline, name=name, parameters=parameters, schedules=schedules)
    page = f"{PREFECT_UI_URL.value()}/deployments/deployment/{identity}"
    print(f"serving {pipeline.name}/{name}: {page} (Ctrl-C ends it)", flush=True)
    return server


def serve(server: Server) -> None:
    """Start runs until a signal comes; then nothing of them is left."""
    signal.signal(signal.SIGINT, server.handle_sigterm)
    asyncio.run(server.start())


def _schedules(cron: str | None) -> list[CronSchedule]:
    try:
        return [CronSchedule(cron=cron)] if cron else []
    except ValidationError:
        raise ValueError(f"--cron {cron}: not a schedule; write it like '0 3 * * *' (UTC)") from None
