"""The servers of the test run themselves."""

import asyncpg
from temporalio.client import Client

from dalang.settings import Settings
from tests.harness import Database


def plain(url: str) -> str:
    return url.replace("+asyncpg", "")


async def test_each_test_has_a_database_of_its_own(database: Database, make_database) -> None:
    """A table made in one database is not in the next."""
    owner = await asyncpg.connect(plain(database.owner_url))
    await owner.execute("CREATE TABLE mine (id int)")
    await owner.close()
    other = await make_database()
    connection = await asyncpg.connect(plain(other.owner_url))
    assert await connection.fetchval("SELECT to_regclass('mine')") is None
    await connection.close()


async def test_processes_cannot_bypass_row_level_security(database: Database) -> None:
    """The role of processes is no superuser, owns nothing and makes nothing."""
    connection = await asyncpg.connect(plain(database.url))
    try:
        role = await connection.fetchrow("SELECT * FROM pg_roles WHERE rolname = current_user")
        assert role["rolname"] == "dalang_app"
        assert not any(role[right] for right in ("rolsuper", "rolbypassrls", "rolcreatedb", "rolcreaterole"))
        assert not await connection.fetchval("SELECT has_schema_privilege('public', 'CREATE')")
    finally:
        await connection.close()


async def test_temporal_answers(temporal_client: Client, settings: Settings) -> None:
    """The client of the fixture and the settings of the fixture speak of the same server."""
    assert temporal_client.service_client.config.target_host == settings.temporal_address
    assert [run async for run in temporal_client.list_workflows(f'TaskQueue = "{settings.task_queue}"')] == []
