"""The second chain of a tenant: written in order, signed, anchored; whoever rewrites it is found."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.settings import Settings
from dalang.signing import Keyring, SignatureState, new_key
from dalang.store.anchors import make_anchor, verify_anchors
from dalang.store.engine import create_engine, transaction
from dalang.store.system_events import Happening, SystemEventType, append, list_system_events, verify_system
from tests.harness import Database, Servers

KEYS = Keyring.read(new_key())
TENANT = "acme"


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    made = create_engine(settings.database_url, pooled=False)
    yield made
    await made.dispose()


def happening(number: int) -> Happening:
    actor = {"type": "human", "id": "ann\u0000", "role": "viewer"}
    return Happening(SystemEventType.FORBIDDEN, 1_700_000_000_000 + number, "WARN", actor, {"what": f"x{number}"})


async def written(engine: AsyncEngine, keys: Keyring = KEYS) -> None:
    for numbers in ((1,), (2, 3), (4,)):
        async with transaction(engine, TENANT) as conn:
            await append(conn, TENANT, [happening(one) for one in numbers], keys)


async def found_by(conn: AsyncConnection, keys: Keyring = KEYS) -> tuple[str, int] | None:
    finding = (await verify_system(conn, TENANT, keys)).finding
    return None if finding is None else (str(finding.what), finding.seq)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ('UPDATE system_events SET data = \'{"what": "nothing"}\' WHERE seq = 2', ("CHANGED", 2)),
        ("UPDATE system_events SET at = at + interval '1 s' WHERE seq = 3", ("CHANGED", 3)),
        ("UPDATE system_events SET hash = repeat('0', 64) WHERE seq = 2", ("CHANGED", 2)),
        ("DELETE FROM system_events WHERE seq = 2", ("REMOVED", 2)),
        ("DELETE FROM system_events WHERE seq = 4", ("REMOVED", 4)),
        ("DELETE FROM system_events; DELETE FROM system_heads", ("HEAD_CHANGED", 4)),
        ("UPDATE system_heads SET seq = 3, hash = (SELECT hash FROM system_events WHERE seq = 3)", ("INSERTED", 4)),
        ("UPDATE system_heads SET signature = NULL", ("UNSIGNED", 4)),
        ("UPDATE system_events SET seq = 12 - seq WHERE seq IN (2, 3)", ("REMOVED", 2)),
    ],
)
async def test_tampering_is_found(
    engine: AsyncEngine, servers: Servers, database: Database, statement: str, expected: tuple[str, int]
) -> None:
    """As superuser of the database, in every way."""
    await written(engine)
    async with transaction(engine, TENANT) as conn:
        anchor = await make_anchor(conn, TENANT, KEYS)
        assert anchor is not None
        assert anchor.heads == 1
        assert await make_anchor(conn, TENANT, KEYS) is None
        assert await found_by(conn) is None
        assert (await verify_anchors(conn, TENANT, KEYS, limit=10))[1] is None
    superuser: asyncpg.Connection = await servers.superuser(database.name)
    try:
        await superuser.execute(statement)
    finally:
        await superuser.close()
    async with transaction(engine, TENANT) as conn:
        assert await found_by(conn) == expected
        if expected[1] == 4 and "DELETE" in statement:
            assert (await verify_anchors(conn, TENANT, KEYS, limit=10))[1] is not None


async def test_a_chain_is_of_one_tenant_and_its_keys(engine: AsyncEngine) -> None:
    """Newest first; names that no store takes are cut; another key's signature is a forgery; without keys none is."""
    await written(engine)
    async with transaction(engine, TENANT) as conn:
        page = await list_system_events(conn, TENANT, limit=3)
        assert [one.data["what"] for one in page.items] == ["x4", "x3", "x2"]
        assert page.items[0].actor["id"] == "ann\ufffd"
        rest = await list_system_events(conn, TENANT, types=["FORBIDDEN"], limit=3, cursor=page.cursor)
        assert [one.seq for one in rest.items] == [1]
        assert (await list_system_events(conn, TENANT, types=["ADMINISTRATION"], limit=3)).items == []
        assert await found_by(conn, Keyring.read(new_key())) == ("FORGED", 4)
        found = await verify_system(conn, TENANT, Keyring())
        assert (found.signature, found.finding, found.events) == (SignatureState.NOT_CHECKED, None, 4)
    async with transaction(engine, "globex") as conn:
        assert (await verify_system(conn, "globex", KEYS)).events == 0
