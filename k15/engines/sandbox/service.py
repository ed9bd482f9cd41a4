"""The sandbox over HTTP on loopback: POST /jobs, GET /health, GET /metrics, with a bearer token."""

import asyncio
import hmac
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from k15.engines.sandbox.judge import refuse
from k15.engines.sandbox.metrics import Metrics
from k15.engines.sandbox.pool import Pool
from k15.engines.sandbox.settings import SandboxSettings
from k15.programs import Job

RETRY_AFTER_S = 1
DRAIN_S = 10  # given to jobs under way when the service ends
MAX_BODY_BYTES = 64 << 20

log = logging.getLogger(__name__)


class SandboxService:
    """One pool behind HTTP. Answers: 200 a verdict, 401, 413, 422 a job that cannot be judged, 429 full."""

    def __init__(self, settings: SandboxSettings, token: str, announce: Callable[[int], None]) -> None:
        if not token:
            raise ValueError("a service needs a token: set K15_SERVICE_TOKEN")
        self.settings = settings
        self.metrics = Metrics()
        self.pool = Pool(settings, self.metrics)
        self._token, self._announce = f"Bearer {token}".encode(), announce
        self._jobs = 0
        self._decoder = msgspec.json.Decoder(Job)

    async def run(self) -> None:
        """Serve until SIGTERM: admitted jobs are ended, then the slots. ValueError: it cannot run here."""
        await self.pool.start()
        routes = [
            Route("/jobs", self._judge, methods=["POST"]),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
        ]
        try:
            config = uvicorn.Config(
                Starlette(routes=routes, lifespan=self._lifespan),
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=DRAIN_S,
            )
            self._server = uvicorn.Server(config)
            # asyncio turns Nagle's delays off only where the protocol is named
            with socket.socket(proto=socket.IPPROTO_TCP) as listening:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(("127.0.0.1", self.settings.port))
                self._port: int = listening.getsockname()[1]
                await self._server.serve(sockets=[listening])
        finally:
            await self.pool.close()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._announce(self._port)
        yield

    def _authorised(self, request: Request) -> bool:
        return hmac.compare_digest(request.headers.get("authorization", "").encode(), self._token)

    async def _judge(self, request: Request) -> Response:
        if not self._authorised(request):
            return self._refused(401, "wrong or missing bearer token")
        if self._jobs >= self.settings.queue:
            return self._refused(429, f"{self._jobs} jobs are admitted", {"Retry-After": str(RETRY_AFTER_S)})
        self._jobs += 1
        try:
            with self.metrics.admitted.track_inprogress(), self.metrics.job_s.time():
                body = await request.body()
                if len(body) > MAX_BODY_BYTES:
                    return self._refused(413, f"the job has more than {MAX_BODY_BYTES >> 20} MB")
                job = self._decoder.decode(body)
                refuse(job, memory_mb=self.settings.memory_mb)
                result = await self.pool.judge(job)
        except (msgspec.DecodeError, ValueError) as error:
            return self._refused(422, str(error))
        finally:
            self._jobs -= 1
        self.metrics.jobs.labels(result.status.value).inc()
        return _response(200, result)

    async def _health(self, _: Request) -> Response:
        up, wanted = len(self.pool.slots), self.settings.slots
        facts = {"slots": up, "wanted": wanted, "jobs": self._jobs, "isolation": self.settings.isolation}
        return _response(200 if up else 503, facts)

    async def _metrics(self, request: Request) -> Response:
        if not self._authorised(request):
            return self._refused(401, "wrong or missing bearer token")
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    def _refused(self, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
        self.metrics.refused.labels(str(status)).inc()
        return _response(status, {"message": message}, headers)


def _response(status: int, body: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


def serve(settings: SandboxSettings, token: str, announce: Callable[[int], None]) -> None:
    """Run a service in this process to its end."""
    asyncio.run(SandboxService(settings, token, announce).run())
