"""A site of its own for tests that need one: a database, a worker, and the API on a port."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import uvicorn
from fastapi import FastAPI

from dalang.api.app import create_app
from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.stack.postgres import drop_database
from dalang.store.engine import create_engine, system_transaction
from dalang.store.tokens import ensure_token
from dalang.worker import worker
from tests.api import world
from tests.harness import LOOPBACK_ALLOWED, Servers


@asynccontextmanager
async def site(
    servers: Servers, superuser: asyncpg.Connection, home: Path, name: str, **more: Any
) -> AsyncIterator[tuple[Settings, FastAPI]]:
    """Run it for the length of the block, with tokens for every tenant and role of ``world.TOKENS``.

    ``more`` are settings of it.
    """
    database = await servers.create_database(superuser)
    port = free_port()
    settings = Settings(
        home=home,
        database_url=database.url,
        temporal_address=servers.temporal_address,
        task_queue=f"{name}-{uuid.uuid4().hex[:8]}",
        public_url=f"http://127.0.0.1:{port}",
        **{"egress_allow": LOOPBACK_ALLOWED, **more},
    )
    engine = create_engine(settings.database_url, pooled=False)
    async with system_transaction(engine) as conn:
        for (tenant, role), token in world.TOKENS.items():
            await ensure_token(conn, token, tenant, f"{role}@{tenant}", [role])
    await engine.dispose()
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
    running = asyncio.create_task(server.serve())
    async with worker(settings):
        while not server.started:
            await asyncio.sleep(0.02)
        yield settings, app
        server.should_exit = True
        await running
    await drop_database(superuser, database.name)
