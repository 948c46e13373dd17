"""Connections: strict JSON, the tenant of a transaction, and which errors mean that waiting helps."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.settings import Settings
from dalang.store.engine import (
    create_engine,
    dump_json,
    is_connection_error,
    is_refused_value,
    load_json,
    load_large_json,
    system_transaction,
    transaction,
)
from tests.harness import Database
from tests.store.outage import Relay


async def error_of(engine: AsyncEngine, sql: str, **values: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is the question
        async with engine.begin() as conn:
            await conn.execute(text(sql), values)
    return caught.value


async def test_the_tenant_ends_with_the_transaction(engine: AsyncEngine) -> None:
    """The next user of the same connection does not inherit it."""
    one = create_engine(engine.url, pool_size=1)
    tenant = text("SELECT current_setting('app.tenant_id', true), pg_backend_pid()")
    async with transaction(one, "acme") as conn:
        first = (await conn.execute(tenant)).one()
    async with system_transaction(one) as conn:
        second = (await conn.execute(tenant)).one()
    assert first == ("acme", second[1])
    assert not second[0]
    await one.dispose()


async def test_an_error_rolls_back(engine: AsyncEngine) -> None:
    """Nothing of a transaction that failed stays."""

    async def fail() -> None:
        async with transaction(engine, "acme") as conn:
            await conn.execute(text("INSERT INTO payload_blobs VALUES (repeat('0', 64), '', false, 0)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with transaction(engine, "acme") as conn:
        assert (await conn.execute(text("SELECT count(*) FROM payload_blobs"))).scalar_one() == 0


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        ("SELECT CAST('{' AS jsonb)", {}),
        ("SELECT 1 / 0", {}),
        ("SELECT CAST(:x AS text)", {"x": "\x00"}),
        ("SELECT CAST(:x AS text)", {"x": "\ud800"}),
        ("SELECT CAST(:x AS integer)", {"x": 2**40}),
        ("INSERT INTO payload_blobs VALUES ('x', '', false, 0)", {}),
    ],
)
async def test_refused_values_are_told_from_outages(engine: AsyncEngine, sql: str, values: dict[str, Any]) -> None:
    """What will be refused again is not worth waiting for."""
    error = await error_of(engine, sql, **values)
    assert is_refused_value(error)
    assert not is_connection_error(error)


async def test_errors_of_statements_are_neither(engine: AsyncEngine) -> None:
    """A missing table, a missing privilege and a statement that takes too long are defects to be seen."""
    hasty = create_engine(engine.url, pooled=False, statement_timeout=0.2)
    for sql in ("SELECT * FROM nothing", "DELETE FROM run_events", "SELECT pg_sleep(5)"):
        error = await error_of(hasty, sql)
        assert not is_connection_error(error), sql
        assert not is_refused_value(error), sql


async def test_outages_are_known_by_their_errors(database: Database, intruder: AsyncEngine) -> None:
    """Refused, cut while in use, ended by the operator, no free connection, a socket that is not there."""
    relay = Relay(database.url)
    await relay.restore()
    through = create_engine(relay.url, pool_size=1)
    async with through.connect() as conn:
        assert (await conn.execute(text("SELECT 1"))).scalar_one() == 1
        sleeping = asyncio.create_task(_sleep(conn))
        await asyncio.sleep(0)
        await relay.cut()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is the question
            await sleeping
        assert is_connection_error(caught.value)
    assert is_connection_error(await error_of(through, "SELECT 1"))
    assert is_connection_error(await error_of(create_engine("postgresql://x@/x?host=/nowhere"), "SELECT 1"))
    await relay.restore()
    assert (await _one(through)) == 1, "the pool gets over it"
    async with through.connect() as conn:
        pid = (await conn.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        async with intruder.begin() as admin:
            await admin.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is the question
            await conn.execute(text("SELECT 1"))
        assert is_connection_error(caught.value)
    assert (await _one(through)) == 1
    await through.dispose()
    await relay.cut()


async def _sleep(conn: Any) -> None:
    await conn.execute(text("SELECT pg_sleep(60)"))


async def _one(engine: AsyncEngine) -> Any:
    async with engine.connect() as conn:
        return (await conn.execute(text("SELECT 1"))).scalar_one()


def test_json_is_strict_and_numbers_keep_their_kind() -> None:
    """NaN is refused; what jsonb writes as digits comes back as the float it was."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"x": math.nan})
    assert load_json('{"a": 100000000000000000000, "b": 9007199254740991, "c": 1}') == {
        "a": 1e20,
        "b": 2**53 - 1,
        "c": 1,
    }
    assert isinstance(load_json("100000000000000000000"), float)
    assert isinstance(load_json("-9007199254740991"), int)


async def test_what_is_large_is_read_in_parts(engine: AsyncEngine) -> None:
    """An object as jsonb writes it, and any other value, is what it is when it is read at once."""
    parts = [{"a": [{"b": "}]"}, []]}, {}, {"c": 1e20}]
    for value in ({}, {"x": []}, {"nodes": parts, "name": "[{", "edges": parts[:1], "n": 1.5}, [{"a": 1}], None, "{"):
        async with engine.connect() as conn:
            query = text("SELECT CAST(:value AS jsonb)::text")
            written = (await conn.execute(query, {"value": dump_json(value)})).scalar_one()
        assert load_large_json(written) == load_json(written)
    assert isinstance(load_large_json('{"a": [{"c": 100000000000000000000}]}')["a"][0]["c"], float)


async def test_an_engine_is_made_from_settings_or_a_url(database: Database) -> None:
    """With the driver filled in, and the pool as large as the settings say."""
    engine = create_engine(Settings(database_url=database.url, database_pool_size=3))
    assert engine.pool.size() == 3  # type: ignore[attr-defined]
    assert await _one(engine) == 1
    await engine.dispose()
    plain = database.url.replace("postgresql+asyncpg", "postgres")
    assert await _one(create_engine(plain, pooled=False)) == 1
