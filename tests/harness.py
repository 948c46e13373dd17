"""Servers for tests: one throw-away Temporal and one PostgreSQL per test run, shared by all xdist workers.

The first test that asks starts a *keeper* (``python -m tests.harness``), which owns both servers and outlives the
test process that started it. It ends when the test run ends, also when that is killed: it watches the run's
main process, and the servers die with the keeper. A test run that asks for no server starts none.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from dalang.stack import ports, postgres
from dalang.stack.errors import StackError
from dalang.stack.postgres import APP, OWNER, SUPERUSER, EmbeddedPostgres
from dalang.stack.private_files import make_home, write_private
from dalang.stack.temporal_server import TemporalPorts, TemporalServer

ROOT = Path(__file__).resolve().parent.parent
LOOPBACK_ALLOWED = ("public", "127.0.0.1")
"""``egress_allow`` of the workers of tests: the services they call are on this machine."""
TEMPLATE = "dalang_template"
PATIENCE = 90.0
"""How many seconds a test waits for what must come; a loaded machine stalls the servers for many of them."""
MEMORY_BYTES = 6 * 1024**3
# Not a DALANG_ name: those are settings of the product, and unknown ones are refused.
SERVERS_FOLDER = "PYTEST_SERVERS_OF_DALANG"


def shared_dir() -> Path | None:
    """The folder ``shared`` beside the checkout (seeds, instances), or None: what is in it is optional for tests."""
    folder = ROOT.parent / "shared"
    return folder if folder.is_dir() else None


requires_shared = pytest.mark.skipif(shared_dir() is None, reason="no folder 'shared' beside the checkout")


@dataclass(frozen=True)
class Database:
    """One PostgreSQL database: as what processes are (``url``), and as the owner of the tables (``owner_url``)."""

    name: str
    url: str
    owner_url: str


@dataclass(frozen=True)
class Servers:
    """Where the servers of this test run are; ``template_error`` says why there are no migrated databases."""

    temporal_address: str
    postgres_port: int
    passwords: dict[str, str]
    template_error: str | None

    def database(self, name: str) -> Database:
        """The database ``name``, whether or not it exists."""
        return Database(name, self.url(APP, name), self.url(OWNER, name))

    def url(self, role: str, database: str) -> str:
        """The SQLAlchemy URL of a database for a role."""
        return f"postgresql+asyncpg://{role}:{self.passwords[role]}@{ports.LOOPBACK}:{self.postgres_port}/{database}"

    async def superuser(self, database: str = "postgres") -> asyncpg.Connection:
        """A connection that may do anything; for what no role of the product may."""
        return await asyncpg.connect(
            host=ports.LOOPBACK,
            port=self.postgres_port,
            user=SUPERUSER,
            password=self.passwords[SUPERUSER],
            database=database,
        )

    async def create_database(self, admin: asyncpg.Connection, *, migrated: bool = True) -> Database:
        """Make a fresh database, a copy of the migrated template unless ``migrated`` is false."""
        if migrated and self.template_error is not None:
            pytest.fail(f"the migrations of the test database failed:\n{self.template_error}")
        name = f"test_{uuid.uuid4().hex[:16]}"
        await postgres.create_database(admin, name, TEMPLATE if migrated else None)
        return self.database(name)


def prepare(config: pytest.Config) -> None:
    """In the main process of a test run: name the folder where servers will be, for it and its xdist workers."""
    # Tests start hundreds of Pythons; without bytecode each of them compiles the whole product again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if not hasattr(config, "workerinput"):
        memory = _memory_folder()
        if memory is not None:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)
            if not os.statvfs(memory).f_flag & os.ST_NOEXEC:  # tests write programs, too
                os.environ.setdefault("TMPDIR", memory)
                tempfile.tempdir = None  # so that it is looked up again
        os.environ[SERVERS_FOLDER] = str(make_home(Path(tempfile.mkdtemp(prefix="dalang-tests-", dir=memory))))


def _memory_folder() -> str | None:
    """Return a folder in memory with room for all that tests write: a copy of a database per test is slow on disks."""
    folder = Path("/dev/shm")
    try:
        roomy = shutil.disk_usage(folder).free >= MEMORY_BYTES
    except OSError:
        return None
    return str(folder) if roomy and os.access(folder, os.W_OK) else None


def finish(config: pytest.Config) -> None:
    """In the main process of a test run: end the servers, if there are any."""
    if hasattr(config, "workerinput") or SERVERS_FOLDER not in os.environ:
        return
    folder = Path(os.environ.pop(SERVERS_FOLDER))
    try:
        keeper = psutil.Process(int((folder / "keeper").read_text()))
        keeper.terminate()
        keeper.wait(20)
    except (OSError, ValueError, psutil.Error):
        pass
    shutil.rmtree(folder, ignore_errors=True)


def servers() -> Servers:
    """The servers of this test run, started now if no test needed them before."""
    folder = Path(os.environ[SERVERS_FOLDER])
    answer = folder / "servers.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            _start_keeper(folder, answer)
    found = json.loads(answer.read_text())
    if "error" in found:
        # Not pytest.exit: in a worker of xdist that hides this text behind an internal error.
        raise RuntimeError(f"the servers for tests do not start:\n{found['error']}")
    return Servers(**found)


def _start_keeper(folder: Path, answer: Path) -> None:
    main = os.getppid() if os.environ.get("PYTEST_XDIST_WORKER") else os.getpid()
    with (folder / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.harness", str(folder), str(main)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (folder / "keeper").write_text(str(keeper.pid))
    while not answer.exists():
        if keeper.poll() is not None:
            text = (folder / "keeper.log").read_text(errors="replace")
            write_private(answer, json.dumps({"error": f"the keeper ended with {keeper.returncode}:\n{text}"}))
        time.sleep(0.02)


async def _keep(folder: Path, main: psutil.Process) -> None:
    """What the keeper does: start both servers, say where they are, wait for the end of the test run, end them."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    database, temporal = await asyncio.gather(_start_postgres(folder), _start_temporal(folder))
    passwords: dict[str, str] = json.loads((folder / "postgres.json").read_text())
    found = Servers(temporal.address, database.port, passwords, None)
    found = Servers(**{**asdict(found), "template_error": await _make_template(database, found)})
    write_private(folder / "servers.json", json.dumps(asdict(found)))
    while main.is_running() and main.status() != psutil.STATUS_ZOMBIE and not stopping.is_set():
        try:
            await asyncio.wait_for(stopping.wait(), 0.5)
        except TimeoutError:
            continue
    await asyncio.gather(database.kill(), temporal.kill())
    shutil.rmtree(folder, ignore_errors=True)


async def _start_postgres(folder: Path) -> EmbeddedPostgres:
    server = EmbeddedPostgres(folder, ports.free_port(), durable=False)
    return await _started(server, lambda: EmbeddedPostgres(folder, ports.free_port(), durable=False))


async def _start_temporal(folder: Path) -> TemporalServer:
    return await _started(
        TemporalServer(folder, TemporalPorts.free(), durable=False),
        lambda: TemporalServer(folder, TemporalPorts.free(), durable=False),
    )


async def _started(server: Any, another: Any) -> Any:
    """Start ``server``; a free port can be taken by someone else before it is used, so try ``another`` once."""
    try:
        await server.start()
    except StackError:
        server = another()
        await server.start()
    return server


async def _make_template(database: EmbeddedPostgres, found: Servers) -> str | None:
    """Migrate the database that tests get copies of; return the error if that fails."""
    admin = await database.connect()
    try:
        await postgres.create_database(admin, TEMPLATE)
    finally:
        await admin.close()
    try:
        from dalang.store.migrate import upgrade

        await asyncio.to_thread(upgrade, found.database(TEMPLATE).owner_url)
    except Exception:  # whatever it is, the tests that need a database tell it
        return traceback.format_exc()
    return None


if __name__ == "__main__":
    asyncio.run(_keep(Path(sys.argv[1]), psutil.Process(int(sys.argv[2]))))
