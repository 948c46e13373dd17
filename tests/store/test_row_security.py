"""Row level security: no table shows or takes anything of another tenant, whatever a query forgets."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.commands.failures import CommandFailure
from dalang.commands.owner import away
from dalang.store.engine import across_tenants, create_engine, sql_state, system_transaction, transaction
from dalang.store.row_security import SHARED, WITHOUT_TENANT, enforce, relax
from tests.harness import Database

MINE, THEIRS = "mine", "theirs"
_TABLES = (
    "SELECT relname, relrowsecurity FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
)
_COLUMNS = """
SELECT table_name, column_name, udt_name FROM information_schema.columns
WHERE table_schema = 'public' AND is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO'
  AND is_generated = 'NEVER'
"""
_VALUES = {
    "uuid": "gen_random_uuid()",
    "jsonb": "'{}'",
    "timestamptz": "now()",
    "bytea": "''",
    "date": "now()",
    "bool": "false",
    "_text": "'{}'",
    "text": "CAST(:tenant AS text)",
}


@pytest.fixture
async def tables(intruder: AsyncEngine) -> dict[str, str]:
    """Every table with a tenant, with a row of each of two; of a table, the statement that inserts a row."""
    async with intruder.begin() as conn:
        await conn.execute(text("SET LOCAL session_replication_role = replica"))  # a row may stand alone
        await conn.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO dalang_app, dalang_system"))
        checks = "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'c' AND conrelid > 0"
        for table, name in (await conn.execute(text(f"{checks} AND connamespace = 'public'::regnamespace"))).all():
            await conn.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
        columns: dict[str, dict[str, str]] = {}
        for table, name, kind in await conn.execute(text(_COLUMNS)):
            columns.setdefault(table, {})[name] = _VALUES.get(kind, "'1'")
        inserts = {}
        for table, values in columns.items():
            if "tenant_id" in values:
                inserts[table] = f"INSERT INTO {table} ({', '.join(values)}) SELECT {', '.join(values.values())}"
        for table, insert in inserts.items():
            for tenant in (MINE, THEIRS, *([""] if table in SHARED else [])):
                await conn.execute(text(insert), {"tenant": tenant})
    return inserts


async def _seen(conn: AsyncConnection, table: str) -> set[str]:
    return set((await conn.execute(text(f"SELECT tenant_id FROM {table}"))).scalars())


async def _refused(conn: AsyncConnection, sql: str, **values: Any) -> bool:
    with pytest.raises(DBAPIError) as caught:
        async with conn.begin_nested():
            await conn.execute(text(sql), values)
    return sql_state(caught.value.orig) == "42501" and "row-level security" in str(caught.value)


async def test_every_table_is_a_tenants_or_says_why_not(engine: AsyncEngine) -> None:
    """A new table without a tenant, or without its policies, is seen here."""
    async with transaction(engine, MINE) as conn:
        found = {table: protected for table, protected in await conn.execute(text(_TABLES))}
    assert {table for table, protected in found.items() if not protected} == set(WITHOUT_TENANT)
    assert all(reason.endswith(".") for reason in WITHOUT_TENANT.values())


async def test_no_table_shows_or_takes_what_is_another_tenants(engine: AsyncEngine, tables: dict[str, str]) -> None:
    """As the processes' role, with every privilege there is: the policies alone keep tenants apart."""
    assert len(tables) > 40
    async with transaction(engine, MINE) as conn:
        for table, insert in tables.items():
            assert await _seen(conn, table) == {MINE, ""} if table in SHARED else {MINE}, table
            for stranger in (THEIRS, ""):
                assert await _refused(conn, insert, tenant=stranger), table
                assert await _refused(conn, f"UPDATE {table} SET tenant_id = :tenant", tenant=stranger), table
                for change in ("UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}"):
                    sql = text(change.format(table) + " WHERE tenant_id = :tenant")
                    assert (await conn.execute(sql, {"tenant": stranger})).rowcount == 0, table


async def test_without_a_tenant_there_is_nothing(engine: AsyncEngine, tables: dict[str, str]) -> None:
    """Nor after somebody else's transaction on the same connection, nor for the tenant that is called nothing."""
    one = create_engine(engine.url, pool_size=1)
    async with one.begin() as conn:
        assert {table for table in tables if await _seen(conn, table)} == set()
    async with transaction(one, MINE):
        pass
    async with one.begin() as conn:
        assert {table for table in tables if await _seen(conn, table)} == set()
    async with transaction(one, "") as conn:
        assert {table for table in tables if await _seen(conn, table)} == set()
        assert await _refused(conn, tables["agents"], tenant="")
    await one.dispose()


async def test_a_job_of_the_system_sees_all_and_only_in_its_transaction(
    engine: AsyncEngine, tables: dict[str, str]
) -> None:
    """The role is taken, not had; and given back where a tenant's transaction took it for a while."""
    one = create_engine(engine.url, pool_size=1)
    async with system_transaction(one) as conn:
        for table in tables:
            assert {MINE, THEIRS} <= await _seen(conn, table), table
        role = text("SELECT current_user::text, pg_has_role('dalang_app', 'dalang_system', 'USAGE')")
        assert tuple((await conn.execute(role)).one()) == ("dalang_system", False)
    async with transaction(one, MINE) as conn:
        assert await _seen(conn, "run_events") == {MINE}
        async with across_tenants(conn):
            assert await _seen(conn, "run_events") == {MINE, THEIRS}
        assert await _seen(conn, "run_events") == {MINE}
        with pytest.raises(ZeroDivisionError):
            async with conn.begin_nested(), across_tenants(conn):
                raise ZeroDivisionError
        assert await _seen(conn, "run_events") == {MINE}
    await one.dispose()


async def test_a_policy_is_no_condition_that_keeps_an_index_from_serving(engine: AsyncEngine) -> None:
    """The tenant is known before the plan is made; for the system's role there is no condition at all."""
    sql = text("EXPLAIN SELECT 1 FROM execution_runs WHERE status = 'RUNNING' ORDER BY created_at")
    async with transaction(engine, MINE) as conn:
        await conn.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join((await conn.execute(sql)).scalars())
        assert "InitPlan" in plan
        assert "Index Cond: ((tenant_id = (InitPlan 1).col1) AND (status = 'RUNNING'::text))" in plan
    async with system_transaction(engine) as conn:
        plan = "\n".join((await conn.execute(sql)).scalars())
        assert "tenant_id =" not in plan
        assert "InitPlan" not in plan


async def test_a_role_that_is_missing_is_asked_for(database: Database, intruder: AsyncEngine) -> None:
    """The owner may make no roles, so he says who has to do what; nothing is switched on before."""
    owner = create_engine(database.owner_url, pooled=False)
    async with intruder.connect() as conn, owner.connect() as mine:
        await conn.execute(text("REVOKE dalang_system FROM dalang_app"))
        await conn.execute(text("SET LOCAL ROLE dalang_owner"))
        with (
            pytest.raises(CommandFailure, match="GRANT dalang_system TO dalang_app WITH INHERIT FALSE") as told,
            away(database.owner_url),  # as `dalang db upgrade` tells it
        ):
            await conn.run_sync(enforce)
        assert isinstance(told.value, CommandFailure)
        assert "db upgrade" in str(told.value.hint)
        await conn.rollback()
        await mine.run_sync(enforce)  # changes nothing where all is right
        await mine.rollback()


async def test_an_older_version_gets_its_tables_without_policies(database: Database) -> None:
    """It would set no role, and see nothing; and a database of before gets them."""
    owner = create_engine(database.owner_url, pooled=False)
    async with owner.connect() as conn:
        await conn.run_sync(relax)
        assert (await conn.execute(text("SELECT count(*) FROM pg_policies"))).scalar_one() == 0
        assert {protected for _, protected in await conn.execute(text(_TABLES))} == {False}
        await conn.run_sync(enforce)
        assert {table for table, on in await conn.execute(text(_TABLES)) if not on} == set(WITHOUT_TENANT)
        await conn.rollback()
