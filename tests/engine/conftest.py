from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from dalang.settings import Settings
from dalang.stack.postgres import drop_database
from tests.engine.kit import TENANT, Engine, engine
from tests.harness import LOOPBACK_ALLOWED, Servers
from tests.model_peer import Peer, models_file, provider


@pytest.fixture(scope="session")
def model_peer() -> Iterator[Peer]:
    """The provider of language models that the workers here know."""
    with provider() as peer:
        yield peer


@pytest.fixture(scope="session")
async def shared_engine(
    servers: Servers, superuser: asyncpg.Connection, tmp_path_factory: pytest.TempPathFactory, model_peer: Peer
) -> AsyncIterator[Engine]:
    """One worker and one database for all engine tests of this process: runs do not disturb each other."""
    database = await servers.create_database(superuser)
    home: Path = tmp_path_factory.mktemp("engine")
    (home / "mcp.yaml").write_text("mcpServers: {}")
    settings = Settings(
        home=home,
        mcp_servers_file=str(home / "mcp.yaml"),
        database_url=database.url,
        migration_database_url=database.owner_url,
        temporal_address=servers.temporal_address,
        egress_allow=LOOPBACK_ALLOWED,
        secrets_environment_tenants=(TENANT,),
        models_file=str(models_file(home, model_peer)),
        task_queue=f"engine-{uuid.uuid4().hex[:8]}",
        wasm_dir=str(home / "modules"),
        container_engine=f"unix://{home}/docker.sock",
        repositories_dir=str(home / "repositories"),
    )
    with pytest.MonkeyPatch.context() as patch:
        # Tests sweep themselves; to a worker that does, what they hold open for a run that is over is left behind.
        patch.setattr("dalang.activities.sessions.SWEEP_SECONDS", 3600.0)
        async with engine(settings) as running:
            yield running
    await drop_database(superuser, database.name)
