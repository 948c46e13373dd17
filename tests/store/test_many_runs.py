"""What stays quick with a million runs: lists go by indexes, labels stand apart, and what ended is not counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from benchmarks import filled
from dalang.provenance import OF_RUN
from dalang.stack.postgres import SUPERUSER
from dalang.store import retention, runs, tallies
from dalang.store.engine import create_engine, system_transaction, transaction
from dalang.store.events import list_events, list_events_of_nodes
from dalang.store.executor_metrics import executor_metrics
from dalang.store.human_tasks import Person, TaskFilter, count_tasks, list_tasks
from dalang.store.measures import gauges
from dalang.store.paging import write_cursor
from dalang.store.run_lists import RunFilter, list_runs
from dalang.store.tables import run_events
from dalang.store.throughput import ended_runs
from dalang.tallying import Tallying
from tests.harness import Database, Servers
from tests.store.world import TENANT, World, begun

LARGE = {"execution_runs", "node_executions", "run_events", "human_tasks"}
MAX_READ = 600
"""Rows of a table that a page of 50 may look at, of the 2,800 runs and 800 tasks that the tenant has."""
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
DEEP = write_cursor(NOW - timedelta(days=100), UUID(int=7))
Work = Callable[[AsyncConnection], Awaitable[Any]]
WIDE = filled.run_id(12)
_WIDE_EVENTS = """
INSERT INTO run_events (run_id, epoch, seq, tenant_id, type, node_id, at, data, fact_digest, previous_hash, hash)
SELECT run_id, 0, n, tenant_id, type, 'wide-' || n / 2, at, data, fact_digest, previous_hash, hash
FROM run_events, generate_series(100, 2000) AS n WHERE run_id = $1 AND seq = 2
"""
"""A run of a thousand nodes more."""


def _runs(**wanted: Any) -> Work:
    return lambda conn: list_runs(conn, filled.TENANT, RunFilter(**{"children": False, **wanted}), cursor=DEEP)


def _tasks(newest_first: bool = False, **wanted: Any) -> Work:
    return lambda conn: list_tasks(conn, filled.TENANT, TaskFilter(**wanted), newest_first=newest_first)


ASKED: dict[str, Work] = {
    "newest": _runs(),
    "FAILED": _runs(statuses=["FAILED"]),
    "FAILED or CANCELLED": _runs(statuses=["FAILED", "CANCELLED"]),
    "active": _runs(statuses=["RUNNING", "PAUSED", "AWAITING_HITL"]),
    "plan": _runs(plan_id=filled.plan_id("order-to-invoice"), statuses=["PAUSED"]),
    "part of a name": _runs(text="QUARTERLY"),
    "part of a name, status": _runs(text="order", statuses=["PAUSED", "FAILED"]),
    "part of no name": _runs(text="nowhere"),
    "person": _runs(created_by="person-1"),
    "person, children": _runs(created_by="person-1", children=True),
    "nobody, children": _runs(created_by="nobody", children=True),
    "time": _runs(created_from=NOW - timedelta(days=101), created_until=NOW - timedelta(days=99)),
    "label": _runs(labels=[("ticket", "T-77")]),
    "label, common": _runs(labels=[("env", "old-prod")]),
    "labels, FAILED": _runs(labels=[("team", "team-4"), ("env", "old-prod")], statuses=["FAILED"]),
    "events of a node": lambda conn: list_events(conn, filled.TENANT, WIDE, node_id="wide-500", bodies=True),
    "events of nodes": lambda conn: list_events_of_nodes(
        conn, filled.TENANT, WIDE, ["wide-70", "wide-500"], types=OF_RUN, limit=99
    ),
    "counts": lambda conn: runs.count_by_status(conn, filled.TENANT),
    "metrics": lambda conn: gauges(conn, filled.TENANT),
    "snapshot": lambda conn: executor_metrics(conn, filled.TENANT),
    "chart, by hours": lambda conn: ended_runs(conn, filled.TENANT, NOW - timedelta(days=9), timedelta(days=1), 9),
    "chart": lambda conn: ended_runs(conn, filled.TENANT, NOW - timedelta(days=1), timedelta(minutes=30), 48),
    "tasks": _tasks(),
    "tasks, open": _tasks(open=True),
    "tasks, newest": _tasks(True, statuses=["COMPLETED"]),
    "tasks, counts": lambda conn: count_tasks(conn, filled.TENANT, Person("person-1", ["group-1"])),
}


async def test_nothing_that_is_asked_reads_whole_tables(servers: Servers, database: Database) -> None:
    """With some thousand runs, what every statement really reads is a small part, under row level security."""
    superuser = create_engine(servers.url(SUPERUSER, database.name), pooled=False)
    async with superuser.connect() as conn:
        raw = await conn.get_raw_connection()
        await filled.fill(raw.driver_connection, filled.Filling(4_000, 0.3, waiting=40))
        await raw.driver_connection.execute(_WIDE_EVENTS, WIDE)
        await raw.driver_connection.execute("ANALYZE run_events")
    engine = create_engine(database.url, pool_size=1)
    await Tallying(engine).step()
    read = {name: await _read(engine, work) for name, work in ASKED.items()}
    await engine.dispose()
    await superuser.dispose()
    too_much = {name: found for name, found in read.items() if max(found.values(), default=0) > MAX_READ}
    assert too_much == {}
    assert any(read["newest"].values())  # it is seen what is read


def test_no_index_is_taken_for_the_key_of_an_event() -> None:
    """What looks for an event by its key in an almost empty table has no choice, and keeps to that as it grows."""
    of_runs = [index for index in run_events.indexes if next(iter(index.columns)) is run_events.c.run_id]
    assert {str(index.name) for index in of_runs if index.dialect_options["postgresql"]["where"] is None} == set()
    assert len(of_runs) == 3


async def _read(engine: AsyncEngine, work: Work) -> Mapping[str, int]:
    """Return how many rows of which large table the statements of some work look at."""
    asked: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    async with transaction(engine, filled.TENANT) as conn:
        event.listen(engine.sync_engine, "before_cursor_execute", note)
        await work(conn)
        event.remove(engine.sync_engine, "before_cursor_execute", note)
    read = dict[str, int]()
    async with transaction(engine, filled.TENANT) as conn:
        for statement, parameters in asked:
            rows = await conn.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            plan = rows.scalar_one()
            for table, count in _scans((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]):
                read[table] = max(read.get(table, 0), count)
    return read


def _scans(plan: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    if plan.get("Relation Name") in LARGE:
        once = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Join Filter", 0)
        yield plan["Relation Name"], round(once * plan["Actual Loops"])
    for part in plan.get("Plans", ()):
        yield from _scans(part)


async def test_labels_are_found_as_they_are_meant(world: World) -> None:
    """As a text or as the value that it is; nothing nested; all of several; and they go with their run."""
    one = await world.run(metadata={"team": "core", "size": 5.0, "on": True, "gone": None, "deep": {"a": 1}})
    two = await world.run(metadata={"team": "core", "size": "5", "long": "x" * 3_000})
    await world.run(metadata={"team": "x" * 300}, tenant_id="other")
    await world.run()

    async def ids(*labels: tuple[str, str], **more: Any) -> list[UUID]:
        async with transaction(world.engine, TENANT) as conn:
            page = await list_runs(conn, TENANT, RunFilter(labels=labels, **more), limit=1)
            found = list(page.items)
            while page.cursor is not None:
                page = await list_runs(conn, TENANT, RunFilter(labels=labels, **more), limit=1, cursor=page.cursor)
                found += page.items
        return [run.run_id for run in found]

    assert await ids(("team", "core")) == [two.run_id, one.run_id]
    assert await ids(("size", "5")) == [two.run_id, one.run_id]
    assert await ids(("size", "5.0")) == [one.run_id]
    assert await ids(("on", "true"), ("team", "core")) == [one.run_id]
    assert await ids(("gone", "null")) == [one.run_id]
    assert await ids(("long", "x" * 3_000)) == [two.run_id]
    assert await ids(("long", "x" * 2_999)) == []
    assert await ids(("deep", "1")) == await ids(("team", "x" * 300)) == []
    assert await ids(("team", "core"), statuses=["PENDING"], text="EPL") == [two.run_id, one.run_id]
    assert await ids(("team", "core"), statuses=["FAILED", "PAUSED"]) == []
    async with transaction(world.engine, TENANT) as conn:
        await runs.mark_start_failed(conn, TENANT, one.run_id, {"message": "no"})
    async with system_transaction(world.engine) as conn:
        assert await retention.delete_finished_runs(conn, datetime.now(UTC)) == 1
        left = await conn.execute(text("SELECT DISTINCT run_id FROM run_labels WHERE tenant_id = :t"), {"t": TENANT})
        assert left.scalars().all() == [two.run_id]


COUNTED = """
SELECT tenant_id, what, status, sum(count), sum(milliseconds), sum(nodes), sum(retries) FROM tallies
WHERE NOT folded OR hour IS NULL GROUP BY 1, 2, 3 HAVING sum(count) <> 0 ORDER BY 1, 2, 3
"""
STANDING = """
SELECT tenant_id, 'run', status, count(*),
  sum(round(extract(epoch FROM completed_at - coalesce(started_at, completed_at)) * 1000)),
  sum((SELECT coalesce(sum(value::int), 0) FROM jsonb_each_text(node_status_counts) WHERE key <> 'SKIPPED')),
  sum(retry_count)
FROM execution_runs WHERE completed_at IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


@pytest.fixture
def counted(world: World) -> Callable[[], Awaitable[int]]:
    """Compare what is tallied with what stands there, and return how many runs that are."""

    async def compare() -> int:
        async with system_transaction(world.engine) as conn:
            told, real = [
                [tuple(map(str, row)) for row in await conn.execute(text(query))] for query in (COUNTED, STANDING)
            ]
            assert told == real
            return sum(int(row[3]) for row in told)

    return compare


async def test_what_is_tallied_is_what_stands_there(
    world: World, counted: Callable[[], Awaitable[int]], intruder: AsyncEngine
) -> None:
    """However runs end, change and go, before and after new tallies are added up, by several at once."""
    await world.whole()
    failed, going = await world.run(), await world.run(tenant_id="other")
    await world.flush(going, begun())
    async with transaction(world.engine, TENANT) as conn:
        assert await runs.mark_start_failed(conn, TENANT, failed.run_id, {"message": "no"})
    assert await counted() == 2
    tallying = [Tallying(world.engine) for _ in range(3)]
    await asyncio.gather(*(one.step() for one in tallying))
    assert await counted() == 2
    async with system_transaction(world.engine) as conn:
        assert (await conn.execute(text("SELECT count(*) FROM tallies WHERE NOT folded"))).scalar_one() == 0
    async with intruder.begin() as conn:  # as a reset does: it goes on, and ends anew
        await conn.execute(
            text("UPDATE execution_runs SET status = 'RUNNING', completed_at = NULL WHERE status = 'FAILED'")
        )
    assert await counted() == 0
    async with intruder.begin() as conn:
        times = "started_at = now() - interval '3 s', completed_at = now() - interval '1 s'"
        await conn.execute(text(f"UPDATE execution_runs SET status = 'CANCELLED', {times}"))
    assert await counted() == 3
    await tallying[0].step()
    async with system_transaction(world.engine) as conn:
        assert await retention.delete_finished_runs(conn, datetime.now(UTC), tenant_id="other") == 1
    assert await counted() == 2
    async with intruder.begin() as conn:
        await conn.execute(text("UPDATE tallies SET count = 99"))
        await conn.execute(text("SELECT dalang_tally_again()"))
    assert await counted() == 2


async def test_old_hours_are_forgotten_and_stay_counted(world: World, intruder: AsyncEngine) -> None:
    """The chart has no more of them, the counts do."""
    await world.whole()
    async with system_transaction(world.engine) as conn:
        assert await tallies.fold(conn) > 0
    async with intruder.begin() as conn:
        await conn.execute(text("UPDATE tallies SET hour = now() - interval '41 days' WHERE hour IS NOT NULL"))
    async with system_transaction(world.engine) as conn:
        assert await tallies.forget_hours(conn) == 1
    async with transaction(world.engine, TENANT) as conn:
        assert await runs.count_by_status(conn, TENANT) == {"FAILED": 1}
