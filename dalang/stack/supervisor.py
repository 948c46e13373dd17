"""Starting, watching and stopping the parts of a stack in order.

PostgreSQL and Temporal start side by side, then the tables are migrated; meanwhile worker and API import what they
need, and then they start. Stopping goes the other way round. One stack per home: a lock that ends with the process,
however it ends, sees to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from dalang.settings import AUDIT_KEY, Settings
from dalang.signing import new_key
from dalang.stack import ports, python_process
from dalang.stack.errors import StackError
from dalang.stack.postgres import APP, OWNER, EmbeddedPostgres
from dalang.stack.private_files import make_home, write_private
from dalang.stack.temporal_server import TemporalPorts, TemporalServer

ALL_PARTS = frozenset({"postgres", "temporal", "worker", "api"})
SERVERS = ("postgres", "temporal")
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_HEALTHY_SECONDS = 60.0


class Part(Protocol):
    """What the supervisor asks of a server or process."""

    name: str

    @property
    def running(self) -> bool: ...  # noqa: D102 - see the classes
    @property
    def pid(self) -> int | None: ...  # noqa: D102
    @property
    def log(self) -> Path: ...  # noqa: D102
    async def prepare(self) -> None: ...  # noqa: D102
    async def start(self) -> None: ...  # noqa: D102
    async def stop(self) -> None: ...  # noqa: D102
    async def kill(self) -> None: ...  # noqa: D102
    async def wait(self) -> str: ...  # noqa: D102


class Stack:
    """A running stack. ``settings`` are those of its processes and clients: addresses, URLs, token."""

    def __init__(self, settings: Settings, say: Callable[[str], None], *, supervised: bool) -> None:
        self.settings = settings
        self.parts: dict[str, Part] = {}
        self._say = say
        self._supervised = supervised
        self._watches: dict[str, asyncio.Task[None]] = {}

    def add(self, part: Part) -> None:
        """Make ``part`` known, so that it is stopped with the stack; it is started by :meth:`start`."""
        self.parts[part.name] = part

    async def start(self, name: str) -> None:
        """Start a part, new or stopped; returns when it is ready. Raises :class:`StackError`."""
        await self.parts[name].start()
        if self._supervised:
            self._watches[name] = asyncio.create_task(self._watch(self.parts[name]))

    async def stop(self, name: str) -> None:
        """Stop a part in order; it stays stopped until :meth:`start`."""
        watch = self._watches.pop(name, None)
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        await self.parts[name].stop()

    async def kill(self, name: str) -> None:
        """End a part as a crash would. A supervised stack starts it again; else it stays down until :meth:`start`."""
        await self.parts[name].kill()

    async def add_worker(self) -> str:
        """Start one more worker and return its name."""
        name = f"worker-{sum(part.startswith('worker') for part in self.parts) + 1}"
        self.add(python_process.worker(self.settings, name))
        await self.start(name)
        return name

    async def stop_all(self) -> None:
        """Stop everything: first the processes, side by side, then the servers they need."""
        await _all(self.stop(name) for name in self.parts if name not in SERVERS)
        await _all(self.stop(name) for name in self.parts if name in SERVERS)

    async def kill_all(self) -> None:
        """End everything at once."""
        await _all(part.kill() for part in self.parts.values())

    async def _watch(self, part: Part) -> None:
        """Start ``part`` again whenever it ends by itself, waiting longer each time it does not stay up."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            what = await part.wait()
            if time.monotonic() - began > _HEALTHY_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            while True:
                self._say(f"{what}\n{part.name} starts again in {pause:g} s")
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                try:
                    await part.start()
                except Exception as e:  # whatever it is (Temporal that is away too): nobody else starts it again
                    what = f"{part.name} cannot be started: {e}"
                else:
                    self._say(f"{part.name} runs again (pid {part.pid})")
                    break


@contextlib.asynccontextmanager
async def stack(
    settings: Settings,
    parts: Collection[str] = ALL_PARTS,
    *,
    durable: bool = True,
    migrate: bool = True,
    supervised: bool = False,
    say: Callable[[str], None] = lambda line: None,
    into: list[Stack] | None = None,
) -> AsyncIterator[Stack]:
    """Run ``parts`` in ``settings.home`` on the settings' ports for the time of the block; ``on_free_ports`` helps.

    What is not in ``parts`` must run elsewhere: without ``postgres`` the settings need both database URLs, without
    ``temporal`` its address. ``durable=False`` trades safety against a crash of the machine for speed;
    ``migrate=False`` leaves the database as it is; ``into`` receives the stack before anything starts, for who must
    be able to end it early.

    Raises :class:`StackError` when a part does not start; whatever had started is stopped then.
    """
    require_posix()
    unknown = set(parts) - ALL_PARTS
    if unknown:
        raise ValueError(f"unknown parts {sorted(unknown)}; there are {sorted(ALL_PARTS)}")
    home = make_home(settings.home)
    with _locked(home):
        running = Stack(settings, say, supervised=supervised)
        if into is not None:
            into.append(running)
        try:
            processes = await _warm_processes(running, frozenset(parts))
            await _start_servers(running, home, frozenset(parts), durable, migrate)
            for process in processes:
                process.settings = running.settings
            await _all(running.start(process.name) for process in processes)
            yield running
        finally:
            await running.stop_all()


def on_free_ports(settings: Settings) -> Settings:
    """The same settings with ports that are free now: for tests, demos and benchmarks beside a running stack."""
    names = ("postgres_port", "temporal_port", "temporal_http_port", "temporal_metrics_port", "temporal_ui_port")
    free = dict(zip((*names, "api_port"), ports.free_ports(len(names) + 1), strict=True))
    derived = {"temporal_address", "temporal_ui_url", "api_url", "public_url"}
    return Settings.of({**settings.model_dump(exclude=derived), **free})


async def _start_servers(running: Stack, home: Path, parts: frozenset[str], durable: bool, migrate: bool) -> None:
    settings = running.settings
    postgres = EmbeddedPostgres(
        home, settings.postgres_port, durable=durable, system_user=settings.postgres_system_user
    )
    temporal = TemporalServer(
        home, TemporalPorts.of(settings), durable=durable, retention_days=settings.temporal_retention_days
    )
    servers: list[Part] = [part for part in (postgres, temporal) if part.name in parts]
    for part in servers:
        running.add(part)
    await _all(part.prepare() for part in servers)
    await _all(running.start(part.name) for part in servers)
    found: dict[str, object] = {}
    if "postgres" in parts:
        found |= {"database_url": postgres.url(APP), "migration_database_url": postgres.url(OWNER)}
    if "temporal" in parts:
        found |= {"temporal_address": temporal.address}
    running.settings = Settings.of({**settings.model_dump(), **found, "home": home})
    if migrate and running.settings.migration_database_url:
        await _migrate(running.settings)
    _ensure_audit_key(running.settings)
    await _ensure_token(running.settings, known_to_database=migrate and bool(running.settings.database_url))
    _write_addresses(running.settings)


async def _warm_processes(running: Stack, parts: frozenset[str]) -> list[python_process.PythonProcess]:
    made = (("api", python_process.api), ("worker", python_process.worker))
    processes = [make(running.settings) for name, make in made if name in parts]
    for process in processes:
        running.add(process)
    await _all(process.warm() for process in processes)
    return processes


async def _migrate(settings: Settings) -> None:
    from dalang.store.migrate import upgrade

    await asyncio.to_thread(upgrade, settings.require_migration_database_url())


def _ensure_audit_key(settings: Settings) -> None:
    """Make ``<home>/audit-key.pem`` on first use, unless another file is named: it signs what runs did."""
    if settings.audit_keys_path is None:
        write_private(settings.home / AUDIT_KEY, new_key())


async def _ensure_token(settings: Settings, *, known_to_database: bool) -> None:
    """Make ``<home>/token`` on first use, and tell the database its hash: an admin of the tenant ``default``."""
    if settings.read_token() is None:
        write_private(settings.home / "token", secrets.token_urlsafe(32) + "\n")
    token = settings.read_token()
    if not known_to_database or token is None:
        return
    from dalang.store.engine import create_engine, system_transaction
    from dalang.store.tokens import ensure_token

    engine = create_engine(settings.database_url, pooled=False)
    try:
        async with system_transaction(engine) as conn:
            await ensure_token(conn, token, "default", "local", ["admin"], name="dalang up")
    except ValueError as error:
        raise StackError(f"the API token of {settings.home} cannot be used: {error}") from None
    finally:
        await engine.dispose()


def _write_addresses(settings: Settings) -> None:
    """Write ``<home>/stack.json``: how a process started in the same folder finds this stack."""
    names = {
        *("database_url", "migration_database_url", "temporal_address", "temporal_namespace", "temporal_ui_url"),
        *("task_queue", "api_host", "api_port", "api_url", "postgres_port", "temporal_port", "temporal_ui_port"),
    }
    values = settings.model_dump(mode="json", include=names)
    write_private(settings.home / "stack.json", json.dumps(values, indent=2) + "\n")


async def _all(tasks: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Await all, also when one fails; then raise the first failure. So nothing is left half started."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Hold ``<home>/lock``; raises :class:`StackError` that says who holds it."""
    import fcntl

    with (home / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StackError(
                f"a stack already runs in {home} (pid {holder}): use it, stop it (`kill {holder}`), or set "
                "DALANG_HOME to another folder."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def require_posix() -> None:
    """Raise :class:`StackError` on Windows, where neither the wheels nor the signals exist."""
    if sys.platform == "win32":
        raise StackError(
            "`dalang up` runs on Linux and macOS (in WSL too). On Windows use docker-compose.yml, or set "
            "DALANG_DATABASE_URL and DALANG_TEMPORAL_ADDRESS and run `dalang worker` and `dalang api`."
        )
