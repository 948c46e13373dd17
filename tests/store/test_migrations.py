"""Migrations make exactly the declared tables, can be undone, and give the processes' role no more than it needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.store.engine import create_engine, sql_state
from dalang.store.migrate import downgrade, upgrade
from dalang.store.migrations import current_revision, newest_revision
from dalang.store.schema import metadata
from tests.harness import Database
from tests.store.world import World

Make = Callable[..., Awaitable[Database]]

CATALOG = """
SELECT 'column', c.table_name, c.column_name, c.data_type || ' ' || c.is_nullable || ' '
    || coalesce(c.column_default, '') || ' ' || coalesce(c.collation_name, '') || c.is_identity
FROM information_schema.columns c WHERE c.table_schema = 'public' AND c.table_name <> 'alembic_version'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
UNION ALL SELECT 'index', tablename, indexname, indexdef
FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION ALL SELECT 'comment', c.relname, '', obj_description(c.oid)
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'alembic_version'
ORDER BY 1, 2, 3, 4
"""


async def _catalog(url: str) -> list[tuple[str, ...]]:
    engine = create_engine(url, pooled=False)
    async with engine.begin() as conn:
        return [tuple(row) for row in await conn.execute(text(CATALOG))]


async def test_migrations_make_the_declared_tables(make_database: Make) -> None:
    """Columns, constraints, indexes and comments are the same, made by either way."""
    migrated, declared = await make_database(migrated=False), await make_database(migrated=False)
    await asyncio.to_thread(upgrade, migrated.owner_url)
    engine = create_engine(declared.owner_url, pooled=False)
    async with engine.begin() as conn:
        await conn.run_sync(metadata.create_all)
    assert await _catalog(migrated.owner_url) == await _catalog(declared.owner_url)
    async with create_engine(migrated.owner_url, pooled=False).begin() as conn:
        options = {"compare_type": True, "compare_server_default": True}
        assert (
            await conn.run_sync(lambda c: compare_metadata(MigrationContext.configure(c, opts=options), metadata)) == []
        )


async def test_migrations_can_be_undone_and_done_again(make_database: Make) -> None:
    """Down to nothing and up again gives the same database."""
    url = (await make_database(migrated=False)).owner_url
    upgrade(url)  # in a running loop, as `dalang up` does
    before = await _catalog(url)
    downgrade(url, "base")
    assert await _catalog(url) == []
    upgrade(url)
    assert await _catalog(url) == before
    async with create_engine(url, pooled=False).begin() as conn:
        assert await current_revision(conn) == newest_revision()


async def test_processes_that_migrate_at_once_wait_for_the_first(make_database: Make) -> None:
    """Three at the same time all succeed."""
    url = (await make_database(migrated=False)).owner_url
    with ThreadPoolExecutor(3) as threads:
        await asyncio.gather(*(asyncio.get_running_loop().run_in_executor(threads, upgrade, url) for _ in range(3)))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE run_events SET data = '{}'",
        "UPDATE run_events SET hash = previous_hash",
        "DELETE FROM run_events",
        "TRUNCATE run_events",
        "DELETE FROM execution_runs",
        "UPDATE event_bodies SET body = '{}'",
        "UPDATE plans SET digest = digest",
        "UPDATE plan_documents SET document = '{}'",
        "DELETE FROM retired_runs",
        "INSERT INTO retired_runs SELECT * FROM retired_runs",
        "ALTER TABLE run_events ADD COLUMN x int",
        "CREATE TABLE x ()",
    ],
)
async def test_processes_cannot_rewrite_history(engine: AsyncEngine, statement: str) -> None:
    """The role of workers and API servers lacks the privilege."""
    with pytest.raises(DBAPIError) as caught:
        async with engine.begin() as conn:
            await conn.execute(text(statement))
    assert sql_state(caught.value.orig) == "42501"


async def test_a_database_with_one_role_works(make_database: Make) -> None:
    """Where the owner is what processes connect as, there is no second role and nothing is granted to it."""
    database = await make_database()
    engine = create_engine(database.owner_url, pooled=False)
    run, _ = await World(engine).whole()
    assert (await World(engine).get(run)).status == "FAILED"
