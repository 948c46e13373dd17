"""The worker and the API as children: ``python -m dalang.start worker``, ``python -m dalang.start api``.

They compute for a second or two before they can begin, and need no servers for that: :meth:`PythonProcess.warm` lets
them do it while the servers start, :meth:`PythonProcess.start` tells them the settings.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dalang.errors import Unavailable
from dalang.settings import PREFIX, SECRET_PREFIX, Settings
from dalang.stack import ports
from dalang.stack.errors import StackError
from dalang.stack.parts import ChildPart
from dalang.stack.polling import polls
from dalang.stack.processes import Child, end_leftover, tail

if TYPE_CHECKING:
    from temporalio.client import Client

_START_SECONDS = 60.0


class PythonProcess(ChildPart):
    """One process of the product, ready when ``is_ready(pid)`` says so; ``settings`` are those of its next start."""

    _child: Child

    def __init__(
        self,
        name: str,
        root: str,
        settings: Settings,
        is_ready: Callable[[int], Awaitable[bool]],
        *,
        port: tuple[int, str] | None = None,
    ) -> None:
        self.name = self.title = name
        self.settings = settings
        # A worker gets the time of ``graceful_shutdown_seconds`` to finish what it does.
        self.stop_seconds = settings.graceful_shutdown_seconds + 5
        self._is_ready = is_ready
        self._port = port
        self._warm = False
        self._child = Child(
            name,
            [sys.executable, "-m", "dalang.start", root, "--told"],
            log=self.log,
            mark=settings.home.absolute() / f"{name}.process",
            environment=_surroundings(),
            asks=True,
        )

    @property
    def log(self) -> Path:
        """What the process writes."""
        return self.settings.home.absolute() / "logs" / f"{self.name}.log"

    async def prepare(self) -> None:
        """End what a crashed supervisor left and check the port."""
        await end_leftover(self._child.mark, seconds=5)
        if self._port is not None:
            ports.require_free(*self._port)

    async def warm(self) -> None:
        """Start it so far that it only needs its settings."""
        await self.prepare()
        await self._child.start()
        self._warm = True

    async def start(self) -> None:
        """Start it and return once it is ready; raises :class:`StackError` with the end of its log."""
        if not self._warm:
            await self.warm()
        self._warm = False
        await self._child.tell(json.dumps(_told(self.settings)))
        deadline = time.monotonic() + _START_SECONDS
        while self._child.pid is not None:
            if await self._is_ready(self._child.pid):
                return
            if time.monotonic() > deadline:
                await self._child.kill()
                raise StackError(
                    f"{self.name} was not ready within {_START_SECONDS:.0f} s; the end of {self.log}:\n{tail(self.log)}"
                )
            await asyncio.sleep(0.05)
        raise StackError(self._child.failure())


def worker(settings: Settings, name: str = "worker") -> PythonProcess:
    """A worker; it is ready when Temporal sees it poll (see :func:`polls` for its identity)."""
    client: Client | None = None

    async def ready(pid: int) -> bool:
        nonlocal client
        from temporalio.service import RPCError

        from dalang.temporal import connect

        try:
            client = client or await connect(part.settings, timeout_seconds=5)
            return await polls(client, part.settings, pid)
        except (Unavailable, RPCError):
            return False  # Temporal is away for the moment; the worker waits for it too

    part = PythonProcess(name, "worker", settings, ready)
    return part


def api(settings: Settings, name: str = "api") -> PythonProcess:
    """The API; it is ready when ``/health/ready`` says so."""

    secure = bool(settings.tls_cert_file)
    address = f"{'https' if secure else 'http'}://{ports.LOOPBACK}:{settings.api_port}/health/ready"

    async def answers(_: int) -> bool:
        import httpx

        try:
            # The certificate is of the name that others know; this child is known by its port, and is told nothing.
            async with httpx.AsyncClient(trust_env=False, timeout=2, verify=False) as client:  # noqa: S501
                return (await client.get(address)).is_success
        except httpx.HTTPError:
            return False

    return PythonProcess(name, "api", settings, answers, port=(settings.api_port, "DALANG_API_PORT"))


def _surroundings() -> dict[str, str]:
    """The environment of this process, without any settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**kept, "PYTHONUNBUFFERED": "1"}


def _told(settings: Settings) -> dict[str, str]:
    """Exactly the settings of the stack, and the secrets that plans name, as environment variables."""
    secrets = {name: value for name, value in os.environ.items() if name.startswith(SECRET_PREFIX)}
    return {**secrets, **settings.environment()}
