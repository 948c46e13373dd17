"""A worker's own port: its metrics, with those of Temporal's SDK and of what stands in the tables, and its health.

Several workers on one host take one port each out of a range; Prometheus reads all of them. Gauges of the tables are
the same whichever worker tells them, so queries take ``max`` over workers, not ``sum``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Sequence

import httpx
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from dalang.health import CHECK_SECONDS, Health, summary
from dalang.metrics import exposition
from dalang.settings import Settings, SettingsError
from dalang.store.engine import system_transaction
from dalang.store.measures import Gauge, gauges
from dalang.trust import trusted

FRESH_SECONDS = 10.0
"""So long what was measured is told again: many may read, and each count costs the database."""
_LOOPBACK = "127.0.0.1"
_TRIES = 5

logger = logging.getLogger("dalang.worker")


class SdkMetrics:
    """Metrics of Temporal's SDK: it serves them on a port of its own, here on loopback, for :meth:`text` to read.

    ``runtime`` is for the client of the process. A port that is free when it is looked for may be taken when the SDK
    wants it, so another is tried.
    """

    def __init__(self) -> None:
        self.runtime, self._url = _runtime()
        self._client = httpx.AsyncClient(trust_env=False, timeout=CHECK_SECONDS, verify=trusted())

    async def text(self) -> bytes:
        """Return them in Prometheus' text format; nothing while they cannot be had."""
        try:
            return (await self._client.get(self._url)).content
        except httpx.HTTPError:
            return b""

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


def _runtime() -> tuple[Runtime, str]:
    for left in reversed(range(_TRIES)):
        with socket.socket() as free:
            free.bind((_LOOPBACK, 0))
            address = f"{_LOOPBACK}:{free.getsockname()[1]}"
        config = PrometheusConfig(address, counters_total_suffix=True, unit_suffix=True, durations_as_seconds=True)
        try:
            return Runtime(telemetry=TelemetryConfig(metrics=config)), f"http://{address}/metrics"
        except (RuntimeError, ValueError):
            if not left:
                raise
    raise AssertionError("unreachable")


class Vitals:
    """What a worker answers on that port."""

    def __init__(self, engine: AsyncEngine, health: Health, sdk: SdkMetrics) -> None:
        self._engine = engine
        self._health = health
        self._sdk = sdk
        self._lock = asyncio.Lock()
        self._measured: Sequence[Gauge] = ()
        self._measured_at = -FRESH_SECONDS
        self.app = Starlette(
            routes=[
                Route("/metrics", self.metrics),
                Route("/health/live", self.live),
                Route("/health/ready", self.ready),
            ]
        )

    async def metrics(self, _request: Request) -> Response:
        """Everything in Prometheus' text format; what the database does not tell in time is left out."""
        async with self._lock:
            if time.monotonic() - self._measured_at >= FRESH_SECONDS:
                self._measured = [await self._healthy(), *await self._tables()]
                self._measured_at = time.monotonic()
        return Response(exposition(self._measured) + await self._sdk.text(), media_type=CONTENT_TYPE_LATEST)

    async def _healthy(self) -> Gauge:
        parts = await self._health.parts()
        samples = [((part.name,), float(part.state == "ok")) for part in parts]
        return Gauge("dalang_healthy", "Whether a part is well, as this process sees it.", ("part",), samples)

    async def _tables(self) -> Sequence[Gauge]:
        found: Sequence[Gauge] = ()
        try:
            async with asyncio.timeout(CHECK_SECONDS), system_transaction(self._engine) as conn:
                found = await gauges(conn, None)
        except Exception as error:  # what is old must not look new
            logger.warning("the tables could not be measured: %s", type(error).__name__)
        about = "Whether what stands in the tables could be counted; where not, it is missing."
        return [Gauge("dalang_tables_counted", about, (), [((), float(bool(found)))]), *found]

    async def live(self, _request: Request) -> Response:
        """Answer as long as the process does."""
        return JSONResponse({"status": "up"})

    async def ready(self, _request: Request) -> Response:
        """Say which part is ok or ill; what is wrong with it stands in the log, and is told to admins by the API."""
        parts = await self._health.parts()
        status = self._health.overall(parts)
        for part in parts:
            if part.state == "ill":
                logger.warning("%s is ill since %s: %s. %s", part.name, part.since, part.detail, part.remedy)
        answer = {"status": status, "checks": dict(summary(parts))}
        return JSONResponse(answer, status_code=503 if status == "notReady" else 200)


class _Server(uvicorn.Server):
    """A server within a process that has signal handlers of its own."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


@contextlib.asynccontextmanager
async def serving(settings: Settings, vitals: Vitals) -> AsyncIterator[int]:
    """Serve for the length of the block, on the port that the block is given.

    Raises:
        SettingsError: none of the ports is free.
    """
    with _listening(settings) as listening:
        port = int(listening.getsockname()[1])
        config = uvicorn.Config(vitals.app, log_config=None, access_log=False, lifespan="off", server_header=False)
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        logger.info("metrics and health on http://%s:%d/metrics", settings.worker_metrics_host, port)
        try:
            yield port
        finally:
            server.should_exit = True
            server.force_exit = True
            await task


def _listening(settings: Settings) -> socket.socket:
    ports = settings.worker_metrics_ports
    family = socket.AF_INET6 if ":" in settings.worker_metrics_host else socket.AF_INET
    for port in ports:
        made = socket.socket(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((settings.worker_metrics_host, port))
            # A second worker may bind a port that the first has not begun to listen on.
            made.listen(128)
        except OSError:
            made.close()
            continue
        return made
    raise SettingsError(
        f"DALANG_WORKER_METRICS_PORT: no free port in {settings.worker_metrics_port} on {settings.worker_metrics_host}"
    )
