"""Fixtures of all tests: real servers (see ``tests/harness.py``), a fresh database per test, settings for both."""

from __future__ import annotations

import gc
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import hypothesis
import pytest
from temporalio.client import Client

from dalang.settings import PREFIX, Settings
from dalang.stack.postgres import drop_database
from tests import harness
from tests.forked_parts import forked_parts
from tests.harness import LOOPBACK_ALLOWED, Database, Servers
from tests.statements import compiled_once

THRESHOLDS = gc.get_threshold()


# Neither a busy machine nor a fresh checkout, in which it first makes tables of all characters, is a defect.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    harness.prepare(config)
    gc.set_threshold(50_000)  # what is collected stays: looking through it for garbage takes a third of the time


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def pytest_unconfigure(config: pytest.Config) -> None:
    harness.finish(config)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """What tests start can be interrupted, also where a shell began this run in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_machine() -> Iterator[None]:
    """Tests see defaults, not what the person who runs them has set."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    with compiled_once():
        yield


@pytest.fixture(scope="session", autouse=True)
def _forked_parts() -> Iterator[None]:
    with forked_parts():
        yield


@pytest.fixture(scope="session")
def servers() -> Servers:
    """The real Temporal and PostgreSQL of this test run."""
    return harness.servers()


@pytest.fixture(scope="session")
def temporal_address(servers: Servers) -> str:
    """``host:port`` of the Temporal server; Dalang's search attributes are registered."""
    return servers.temporal_address


@pytest.fixture
async def temporal_client(temporal_address: str) -> Client:
    """A plain client (pydantic converter, no external storage); ``dalang.temporal.connect`` makes others."""
    from dalang.temporal import connect

    return await connect(Settings(temporal_address=temporal_address))


@pytest.fixture
def task_queue() -> str:
    """A task queue that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
async def superuser(servers: Servers) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the superuser to the database ``postgres``."""
    connection = await servers.superuser()
    yield connection
    await connection.close()


@pytest.fixture
async def make_database(
    servers: Servers, superuser: asyncpg.Connection
) -> AsyncIterator[Callable[..., Awaitable[Database]]]:
    """``await make_database(migrated=False)`` makes another database, dropped after the test."""
    made: list[Database] = []

    async def make(*, migrated: bool = True) -> Database:
        made.append(await servers.create_database(superuser, migrated=migrated))
        return made[-1]

    yield make
    for database in made:
        await drop_database(superuser, database.name)


@pytest.fixture
async def database(make_database: Callable[..., Awaitable[Database]]) -> Database:
    """A fresh migrated database of this test alone."""
    return await make_database()


@pytest.fixture
def settings(database: Database, temporal_address: str, task_queue: str, tmp_path: Path) -> Settings:
    """Settings for a worker, an API or a client of this test: its database, its task queue, the shared Temporal."""
    return Settings(
        home=tmp_path / "home",
        database_url=database.url,
        migration_database_url=database.owner_url,
        temporal_address=temporal_address,
        egress_allow=LOOPBACK_ALLOWED,
        task_queue=task_queue,
    )
