"""Runs below nodes: their rows are made by their first flush, and they stay as long as the run at the top goes on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.store import retention, runs
from dalang.store.children import children_of_node
from dalang.store.engine import system_transaction, transaction
from dalang.store.run_lists import RunFilter, list_runs
from dalang.store.runs import Run
from dalang.store.verification import verify_run
from dalang.wire import RunIdentity
from tests.store.world import TENANT, World, begun, ended, tamper


def identity(parent: Run, node: str = "each") -> RunIdentity:
    """What a child says of itself with its first batch."""
    return {
        "parentRunId": str(parent.run_id),
        "parentNodeId": node,
        "topRunId": str(parent.run_id),
        "iteration": 0,
        "generation": 0,
        "keyRoot": f"{parent.run_id}/{node}:0:0",
        "planDigest": "1" * 64,
        "totalNodes": 3,
        "elements": None,
        "planId": str(UUID(int=8)),
        "planName": "inner",
        "planVersion": "1.0.0",
        "createdBy": "alice",
        "priority": 1,
        "metadata": {"a": 1},
    }


async def test_the_first_flush_makes_the_row(world: World) -> None:
    """From what the batch says; the inputs are those of the first events, and a repetition changes nothing."""
    parent, child = await world.run(), uuid4()
    head = await world.flush(child, begun(), identity=identity(parent))
    assert await world.flush(child, begun(), identity=identity(parent)) == head
    await world.flush(child, ended(), head, status="FAILED")
    async with transaction(world.engine, TENANT) as conn:
        found = await runs.get_run(conn, TENANT, child)
        assert found is not None
        assert (found.plan_name, found.total_nodes, found.priority, found.metadata) == ("inner", 3, 1, {"a": 1})
        assert (found.parent_run_id, found.parent_node_id, found.top_run_id) == (parent.run_id, "each", parent.run_id)
        assert (found.inputs, found.created_by, found.status) == ({"feature": "login"}, "alice", "FAILED")
        assert await children_of_node(conn, TENANT, parent.run_id, "each") == [child]
        assert await children_of_node(conn, "other", parent.run_id, "each") == []
        assert (await verify_run(conn, TENANT, child)).valid


async def test_lists_and_counts_leave_them_out(world: World) -> None:
    """Unless they are asked for."""
    parent, child = await world.run(), uuid4()
    await world.flush(child, begun(), identity=identity(parent))
    async with transaction(world.engine, TENANT) as conn:

        async def listed(wanted: RunFilter) -> set[UUID]:
            return {run.run_id for run in (await list_runs(conn, TENANT, wanted)).items}

        assert await listed(RunFilter(children=False)) == {parent.run_id}
        assert await listed(RunFilter()) == {parent.run_id, child}
        assert await listed(RunFilter(parent_run_id=parent.run_id)) == {child}
        assert await listed(RunFilter(parent_run_id=parent.run_id, parent_node_id="x")) == set()
        assert await runs.count_by_status(conn, TENANT) == {"PENDING": 1}


async def test_they_are_not_deleted_while_the_top_goes_on(world: World, intruder: AsyncEngine) -> None:
    """However long ago they ended: whoever looks at the run wants to see what ran below it."""
    parent, child = await world.run(), uuid4()
    head = await world.flush(child, begun(), identity=identity(parent))
    await world.flush(child, ended(), head, status="FAILED")
    long_ago = "UPDATE execution_runs SET completed_at = now() - interval '9 days' WHERE completed_at IS NOT NULL"
    await tamper(intruder, long_ago)
    soon = datetime.now(UTC) + timedelta(days=1)
    async with system_transaction(world.engine) as conn:
        assert await retention.delete_finished_runs(conn, soon) == 0
    head = await world.flush(parent, begun())
    await world.flush(parent, ended(), head, status="FAILED")
    await tamper(intruder, long_ago)
    async with system_transaction(world.engine) as conn:
        assert await retention.delete_finished_runs(conn, soon) == 2
