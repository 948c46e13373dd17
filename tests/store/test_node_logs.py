"""What handlers logged is a tenant's, and goes with what it is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.store import retention
from dalang.store.engine import system_transaction, transaction
from dalang.store.node_logs import LogLine, keep_lines, list_lines
from tests.store.world import TENANT, World, tamper

AT = datetime(2026, 11, 22, tzinfo=UTC)


def line(run_id: UUID, message: str) -> LogLine:
    return LogLine(run_id, "a", 0, 1, AT, "INFO", "x", message, None)


async def kept(world: World, run_id: UUID, tenant: str = TENANT) -> list[str]:
    async with transaction(world.engine, tenant) as conn:
        return [one.message for _, one in await list_lines(conn, tenant, run_id)]


async def test_lines_go_with_what_they_tell_of(world: World, intruder: AsyncEngine) -> None:
    """Erasing what users put into a run erases them, since handlers log values; deleting the run deletes them."""
    erased, deleted = [(await world.whole())[0].run_id for _ in range(2)]
    async with transaction(world.engine, "other") as conn:
        assert len(await keep_lines(conn, "other", [line(erased, "of another tenant")])) == 1
    async with transaction(world.engine, TENANT) as conn:
        assert await keep_lines(conn, TENANT, [line(one, "secret") for one in (erased, deleted)]) == []
        await retention.erase_bodies(conn, TENANT, erased)
    assert await kept(world, erased) == await kept(world, deleted, "other") == []
    assert await kept(world, deleted) == ["secret"]
    await tamper(intruder, "UPDATE execution_runs SET completed_at = now() - interval '1 day'")
    async with system_transaction(world.engine) as conn:
        before = datetime.now(UTC) - timedelta(minutes=1)
        assert await retention.delete_finished_runs(conn, before, tenant_id=TENANT) == 2
    assert await world.rows("SELECT * FROM node_logs") == []
