"""Queries about runs: made once, listed in pages, counted, and found again when a crash left them behind."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.errors import Conflict
from dalang.store import runs
from dalang.store.engine import system_transaction, transaction
from dalang.store.paging import InvalidCursor, Page, read_cursor, write_cursor
from dalang.store.run_lists import RunFilter, list_runs
from tests.store.world import TENANT, World, begun, new_run, tamper


async def test_the_same_request_makes_one_run(world: World) -> None:
    """One idempotency key and one digest of the request, also at the same time, is one run."""
    key = {"idempotency_key": "k", "request_digest": "d"}

    async def create() -> tuple[runs.Run, bool]:
        async with transaction(world.engine, TENANT) as conn:
            return await runs.create_run(conn, new_run(**key))

    made = await asyncio.gather(*(create() for _ in range(4)))
    assert len({run.run_id for run, _ in made}) == 1
    assert sorted(new for _, new in made) == [False, False, False, True]
    assert made[0][0].status == "PENDING"
    assert (made[0][0].head_epoch, made[0][0].head_seq, made[0][0].head_hash) == (0, 0, "")
    other = await world.run(tenant_id="other", **key)
    assert other.run_id != made[0][0].run_id, "another tenant's key is another key"


async def test_one_key_for_two_requests_is_a_conflict(world: World) -> None:
    """The same idempotency key with another request is refused, and so is a run id that is taken."""
    run = await world.run(idempotency_key="k", request_digest="d")
    with pytest.raises(Conflict, match="another request"):
        await world.run(idempotency_key="k", request_digest="e")
    with pytest.raises(Conflict, match="taken"):
        await world.run(run_id=run.run_id)


async def test_a_run_belongs_to_its_tenant(world: World) -> None:
    """Another tenant does not see it."""
    run = await world.run()
    async with transaction(world.engine, "other") as conn:
        assert await runs.get_run(conn, "other", run.run_id) is None
        assert await list_runs(conn, "other") == Page([], None)
        assert await runs.count_by_status(conn, "other") == {}
        assert not await runs.mark_start_failed(conn, "other", run.run_id, {"message": "x"})


async def test_pages_neither_repeat_nor_hide_runs(world: World) -> None:
    """Runs that are made between two pages do not move those of the next, also when times are equal."""
    async with transaction(world.engine, TENANT) as conn:  # one transaction: one created_at for all
        ids = [(await runs.create_run(conn, new_run()))[0].run_id for _ in range(7)]
    seen: list[UUID] = []
    cursor: str | None = None
    while True:
        async with transaction(world.engine, TENANT) as conn:
            page = await list_runs(conn, TENANT, limit=2, cursor=cursor)
        seen += [run.run_id for run in page.items]
        await world.run()
        cursor = page.cursor
        if cursor is None:
            break
    assert seen == sorted(ids, reverse=True)


async def test_a_cursor_that_nobody_answered_is_refused(world: World) -> None:
    """Garbage, another list's cursor and a time without a zone are no cursors."""
    async with transaction(world.engine, TENANT) as conn:
        for cursor in ("", "x", "äö", "AAAA", write_cursor("a"), write_cursor("2020-01-01T00:00:00", "x"), "bnVsbA"):
            with pytest.raises(InvalidCursor):
                await list_runs(conn, TENANT, cursor=cursor)
    with pytest.raises(InvalidCursor):
        read_cursor(write_cursor("a\x00"), str)


async def test_filters_narrow_the_list(world: World) -> None:
    """Each filter by itself, and a text that LIKE would read as a pattern."""
    one = await world.run(plan_name="100%_done", created_by="bob", plan_id=UUID(int=9))
    two = await world.run()
    await world.flush(two, begun())

    async def ids(wanted: RunFilter) -> set[UUID]:
        async with transaction(world.engine, TENANT) as conn:
            return {run.run_id for run in (await list_runs(conn, TENANT, wanted)).items}

    both = {one.run_id, two.run_id}
    assert await ids(RunFilter()) == both
    assert await ids(RunFilter(statuses=["RUNNING", "FAILED"])) == {two.run_id}
    assert await ids(RunFilter(plan_id=UUID(int=9))) == {one.run_id}
    assert await ids(RunFilter(plan_name="deploy")) == {two.run_id}
    assert await ids(RunFilter(created_by="bob")) == {one.run_id}
    assert await ids(RunFilter(text="%_DO")) == {one.run_id}
    assert await ids(RunFilter(text="d_p")) == set()
    assert await ids(RunFilter(created_from=one.created_at, created_until=two.created_at)) == {one.run_id}


async def test_active_runs_and_counts(world: World) -> None:
    """What has not ended is active; long-running is measured from the start."""
    waiting, going = await world.run(), await world.run()
    await world.whole()
    await world.flush(going, begun())
    async with transaction(world.engine, TENANT) as conn:
        active = [run.run_id for run in await runs.list_active_runs(conn, TENANT)]
        assert active == [waiting.run_id, going.run_id]
        assert await runs.count_by_status(conn, TENANT) == {"PENDING": 1, "RUNNING": 1, "FAILED": 1}
        far, past = datetime(2100, 1, 1, tzinfo=UTC), datetime(2000, 1, 1, tzinfo=UTC)
        assert [run.run_id for run in await runs.list_long_running(conn, TENANT, far)] == [going.run_id]
        assert [run.run_id for run in await runs.list_long_running(conn, None, far)] == [going.run_id]
        assert await runs.list_long_running(conn, TENANT, past) == []


async def test_what_a_crash_left_pending_is_found_until_it_is_started(world: World, intruder: AsyncEngine) -> None:
    """The reconciler sees old rows without a workflow, of all tenants."""
    old, started, failed = await world.run(), await world.run(tenant_id="other"), await world.run()
    await tamper(intruder, "UPDATE execution_runs SET created_at = now() - interval '1 minute'")
    await world.run()
    async with system_transaction(world.engine) as conn:
        assert len(await runs.list_not_started(conn, 30)) == 3
        assert len(await runs.list_not_started(conn, 30, tenant_id="other")) == 1
    async with transaction(world.engine, "other") as conn:
        noted = [runs.Started(one.run_id, f"w-{one.run_id}", "t", "n", "c") for one in (started, old)]
        await runs.mark_all_started(conn, noted)  # the other one is another tenant's
        assert not await runs.mark_start_failed(conn, "other", started.run_id, {"message": "too late"})
    async with transaction(world.engine, TENANT) as conn:
        assert await runs.mark_start_failed(conn, TENANT, failed.run_id, {"message": "no"})
        assert [run.run_id for run in await runs.list_not_started(conn, 30)] == [old.run_id]
    found = await world.get(failed)
    assert (found.status, found.reason, found.completed_at is not None) == ("FAILED", "START_FAILED", True)
    assert (await world.get(started)).temporal_cluster_id == "c"


async def test_a_late_note_of_the_start_does_not_overwrite_the_current_execution(world: World) -> None:
    """A run that has continued as new before its start was noted keeps the execution its flush named."""
    run = await world.run()
    await world.flush(run, begun(), execution="continued")
    async with transaction(world.engine, TENANT) as conn:
        await runs.mark_all_started(conn, [runs.Started(run.run_id, "w", "first", "default", None)])
    assert (await world.get(run)).temporal_run_id == "continued"


async def test_lists_use_their_indexes(world: World) -> None:
    """Paging, active runs and the reconciler do not read the whole table."""
    queries = {
        "ix_execution_runs_tenant_id_created_at_run_id": "tenant_id = 'a' ORDER BY created_at DESC, run_id DESC",
        "ix_execution_runs_active": "tenant_id = 'a' AND completed_at IS NULL",
        "ix_execution_runs_not_started": "completed_at IS NULL AND temporal_run_id IS NULL ORDER BY created_at",
    }
    async with transaction(world.engine, TENANT) as conn:
        await conn.execute(text("SET LOCAL enable_seqscan = off"))
        for index, condition in queries.items():
            plan = await conn.execute(text(f"EXPLAIN SELECT * FROM execution_runs WHERE {condition}"))
            assert index in "\n".join(row[0] for row in plan)


async def test_times_come_back_with_their_zone(world: World) -> None:
    """All times are UTC and aware."""
    run = await world.run()
    assert run.created_at.utcoffset() == timedelta(0)
