"""Fixtures of the store: engines as the processes' role, and as a superuser, who can rewrite anything."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.stack.postgres import SUPERUSER
from dalang.store.engine import create_engine
from tests.harness import Database, Servers
from tests.store.world import World


@pytest.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    """What every process of the product connects with."""
    made = create_engine(database.url, pool_size=5)
    yield made
    await made.dispose()


@pytest.fixture
async def intruder(database: Database, servers: Servers) -> AsyncIterator[AsyncEngine]:
    """A superuser: somebody who can change every row and knows nothing of the chain."""
    made = create_engine(servers.url(SUPERUSER, database.name), pooled=False)
    yield made
    await made.dispose()


@pytest.fixture
def world(engine: AsyncEngine) -> World:
    """A tenant with shorthands for runs and flushes."""
    return World(engine)
