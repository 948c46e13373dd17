"""Servers that fault tests may stop, and workers on them or on the servers of all tests."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dalang.settings import Settings
from dalang.stack.private_files import make_home
from dalang.stack.supervisor import SERVERS, Stack, on_free_ports, stack
from tests.faults.site import Site, site
from tests.harness import LOOPBACK_ALLOWED, ROOT


@pytest.fixture(scope="session", autouse=True)
def _children_find_the_handlers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the effects of a test leave their marks."""
    return tmp_path / "effects"


@pytest.fixture
async def workers(settings: Settings, folder: Path) -> AsyncIterator[Site]:
    """A worker process on the servers of all tests."""
    async with site(settings, folder) as made:
        yield made


@pytest.fixture(scope="session")
async def own_servers() -> AsyncIterator[Stack]:
    """A PostgreSQL and a Temporal that tests may stop and kill; they keep data as in production."""
    home = make_home(Path(tempfile.mkdtemp(prefix="dalang-faults-")))
    async with stack(on_free_ports(Settings(home=home, egress_allow=LOOPBACK_ALLOWED)), SERVERS) as running:
        yield running
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
async def servers_up(own_servers: Stack) -> Stack:
    """The same, running, whatever the test before did to them."""
    for name in SERVERS:
        if not own_servers.parts[name].running:
            await own_servers.start(name)
    return own_servers


@pytest.fixture
def own_settings(servers_up: Stack, tmp_path: Path) -> Settings:
    """Settings of processes on the servers that may be stopped."""
    found = servers_up.settings
    return Settings(
        home=tmp_path / "home",
        database_url=found.database_url,
        migration_database_url=found.migration_database_url,
        temporal_address=found.temporal_address,
        egress_allow=LOOPBACK_ALLOWED,
        task_queue=f"faults-{uuid.uuid4().hex[:8]}",
    )


@pytest.fixture
async def exposed(own_settings: Settings, servers_up: Stack, folder: Path) -> AsyncIterator[Site]:
    """A worker process on the servers that may be stopped; they run again when it is asked to end."""
    async with AsyncExitStack() as parts:
        made = await parts.enter_async_context(site(own_settings, folder))
        yield made
        for name in SERVERS:
            if not servers_up.parts[name].running:
                await servers_up.start(name)
