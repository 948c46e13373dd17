"""A body is read by the whole key of its event, whatever PostgreSQL knows of the run."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.store.tables import run_events
from dalang.store.told_bodies import told, told_events
from tests.store.world import World


async def test_a_run_that_statistics_do_not_know_yet(world: World, intruder: AsyncEngine) -> None:
    """By the run alone, as a plain join may do there, 40,000 events would be joined with 40,000 bodies each."""
    await world.whole()
    query = select(told.c.body).select_from(told_events).where(run_events.c.run_id == uuid4())
    written = query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})  # type: ignore[no-untyped-call]
    async with intruder.begin() as conn:
        await conn.execute(text("ANALYZE run_events, event_bodies"))
        for other in ("seqscan", "bitmapscan", "hashjoin", "mergejoin"):  # what a small table is read by
            await conn.execute(text(f"SET LOCAL enable_{other} = off"))
        plan = "\n".join((await conn.execute(text(f"EXPLAIN {written}"))).scalars())
    [bodies] = [part for part in plan.split("->") if " on event_bodies" in part]
    assert "Index Cond" in bodies
    assert "epoch =" in bodies.split("Index Cond")[1]
    assert "seq =" in bodies.split("Index Cond")[1]
