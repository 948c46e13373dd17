"""Fixtures of the API: the real app on real servers, a client per token, and a real worker in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from dalang.api.app import create_app
from dalang.settings import Settings
from dalang.store.engine import create_engine, system_transaction
from dalang.store.tokens import ensure_token
from dalang.worker import worker
from tests.api import world
from tests.api.world import Api
from tests.harness import Servers

if TYPE_CHECKING:
    from tests.api.a2a_kit import Served


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The app, with tokens for two tenants and all roles in its database."""
    engine = create_engine(settings.database_url, pooled=False)
    async with system_transaction(engine) as conn:
        for (tenant, role), token in world.TOKENS.items():
            await ensure_token(conn, token, tenant, f"{role}@{tenant}", [role])
    made = create_app(settings)
    async with made.router.lifespan_context(made):
        made.state.services.controls.accept_seconds = 5.0
        yield made
    await engine.dispose()


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[Api]:
    """A client of the app: an operator of the tenant ``acme`` unless a request says otherwise."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://api.test", timeout=60
    ) as client:
        yield Api(client)


@pytest.fixture
async def working(settings: Settings) -> AsyncIterator[None]:
    """A real worker on this test's task queue."""
    async with worker(settings):
        yield


@pytest.fixture(scope="session")
async def served(
    servers: Servers, superuser: asyncpg.Connection, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    """A stack of the A2A agent, over HTTP."""
    from tests.api.a2a_kit import serving  # the SDK takes a while to load

    async with serving(servers, superuser, tmp_path_factory.mktemp("a2a")) as made:
        yield made
