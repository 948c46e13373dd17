"""The worker and the API as children: ``python -m dalang.start worker``, ``python -m dalang.start api``."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from dalang.errors import Unavailable
from dalang.settings import PREFIX, SECRET_PREFIX, Settings
from dalang.stack import ports
from dalang.stack.errors import StackError
from dalang.stack.parts import ChildPart
from dalang.stack.polling import polls
from dalang.stack.processes import Child, end_leftover, tail

_START_SECONDS = 60.0


class PythonProcess(ChildPart):
    """One process of the product, ready when ``is_ready(pid)`` says so."""

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
        self._child = Child(
            name,
            [sys.executable, "-m", "dalang.start", root],
            log=self.log,
            mark=settings.home.absolute() / f"{name}.process",
            environment=_environment(settings),
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

    async def start(self) -> None:
        """Start it and return once it is ready; raises :class:`StackError` with the end of its log."""
        await self.prepare()
        await self._child.start()
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

    async def ready(pid: int) -> bool:
        from temporalio.service import RPCError

        try:
            return await polls(settings, pid)
        except (Unavailable, RPCError):
            return False  # Temporal is away for the moment; the worker waits for it too

    return PythonProcess(name, "worker", settings, ready)


def api(settings: Settings) -> PythonProcess:
    """The API; it is ready when ``/health/ready`` says so."""

    async def answers(_: int) -> bool:
        import httpx

        from dalang.trust import trusted

        secure = bool(settings.tls_cert_file)
        try:
            # The certificate is of the name that others know; this child is known by its port, and is told nothing.
            verify = False if secure else trusted()
            async with httpx.AsyncClient(trust_env=False, timeout=2, verify=verify) as client:
                address = f"{'https' if secure else 'http'}://{ports.LOOPBACK}:{settings.api_port}/health/ready"
                return (await client.get(address)).is_success
        except httpx.HTTPError:
            return False

    return PythonProcess("api", "api", settings, answers, port=(settings.api_port, "DALANG_API_PORT"))


def _environment(settings: Settings) -> dict[str, str]:
    """The environment of this process, with exactly the settings of the stack."""
    secrets = tuple(name for name in os.environ if name.startswith(SECRET_PREFIX))
    kept = {name: value for name, value in os.environ.items() if name in secrets or not name.startswith(PREFIX)}
    return {**kept, **settings.environment(), "PYTHONUNBUFFERED": "1"}
