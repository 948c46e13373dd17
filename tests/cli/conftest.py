"""The command line in this process, on a real API and worker; each module is a tenant of its own."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dalang.commands import app
from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.stack.postgres import drop_database
from dalang.stack.private_files import make_home, write_private
from dalang.stack.supervisor import Stack, stack
from dalang.store.engine import create_engine, system_transaction
from dalang.store.tokens import ensure_token
from tests.harness import LOOPBACK_ALLOWED, Servers


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON document on standard output."""
        return json.loads(self.out)


Dalang = Callable[..., Result]


@pytest.fixture
def dalang(capsys: pytest.CaptureFixture[str]) -> Dalang:
    """``dalang("run", path)`` runs a command line as the program does, and returns how it ended."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = app.run([str(argument) for argument in arguments])
        written = capsys.readouterr()
        assert "Traceback" not in written.err
        return Result(code, written.out, written.err)

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(text, "name.yaml")`` writes a file and returns its path."""

    def made(text: str, name: str = "plan.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return made


@pytest.fixture(scope="session")
async def running(
    servers: Servers, superuser: asyncpg.Connection, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """A real API and a real worker with the demo agents, for all tests of this process."""
    database = await servers.create_database(superuser)
    settings = Settings(
        home=make_home(tmp_path_factory.mktemp("stack") / "home"),
        database_url=database.url,
        migration_database_url=database.owner_url,
        temporal_address=servers.temporal_address,
        egress_allow=LOOPBACK_ALLOWED,
        task_queue=f"cli-{uuid.uuid4().hex[:12]}",
        api_port=free_port(),
        node_modules=("dalang.demo",),
        graceful_shutdown_seconds=1,
    )
    async with stack(settings, ("worker", "api")) as made:
        yield made
    await drop_database(superuser, database.name)


@pytest.fixture(scope="module")
async def ours(running: Stack, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The same stack, as an admin of a tenant of this module sees it: its folder has another token."""
    home = make_home(tmp_path_factory.mktemp("ours") / "home")
    for file in running.settings.home.iterdir():
        if file.name != "token":
            (home / file.name).symlink_to(file)
    token = secrets.token_urlsafe(32)
    write_private(home / "token", token)
    engine = create_engine(running.settings.database_url, pooled=False)
    async with system_transaction(engine) as conn:
        await ensure_token(conn, token, f"cli-{uuid.uuid4().hex}", "local", ["admin"])
    await engine.dispose()
    made = Stack(running.settings.model_copy(update={"home": home}), print, supervised=False)
    made.parts = running.parts
    return made


@pytest.fixture
def here(ours: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The stack, with an environment in which commands find it."""
    monkeypatch.setenv("DALANG_HOME", str(ours.settings.home))
    return ours
