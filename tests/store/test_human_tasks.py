"""The inbox: tasks read as the facts about them say, whatever is repeated, reset, lost or deleted; and its queries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from dalang.store import chain, human_tasks, lost_runs, retention
from dalang.store.engine import system_transaction, transaction
from dalang.store.human_tasks import Person, Task, TaskFilter
from dalang.store.paging import InvalidCursor
from dalang.store.runs import Run
from dalang.wire import Fact, Head
from tests.store.task_facts import completed, created, happened, task_id
from tests.store.world import START, TENANT, World, begun, fact

ANY = TaskFilter()


async def get(world: World, run: Run, node: str) -> Task:
    async with transaction(world.engine, TENANT) as conn:
        found = await human_tasks.get_task(conn, TENANT, task_id(run.run_id, node), resolved=True)
    assert found is not None
    return found


async def asked(world: World, *facts: Fact, run: Run | None = None) -> tuple[Run, Head]:
    run = run or await world.run()
    head = await world.flush(run, begun())
    return run, await world.flush(run, list(facts), head)


async def listed(world: World, wanted: TaskFilter = ANY, **more: Any) -> list[str]:
    async with transaction(world.engine, TENANT) as conn:
        return [one.node_id for one in (await human_tasks.list_tasks(conn, TENANT, wanted, **more)).items]


async def test_a_task_reads_as_its_facts_say(world: World) -> None:
    """From the question through claim, delegation, reminder, escalation and a vote to the decision."""
    run = await world.run()
    of = (run.run_id, "a")
    await asked(
        world,
        created(
            5,
            *of,
            {"form": {"type": "object"}, "excluded": ["alice"]},
            assignee="carol",
            candidates=["carol"],
            priority=2,
            quorum=2,
        ),
        happened(6, "RELEASED", *of, "PENDING", assignee=None, operator="carol"),
        happened(7, "CLAIMED", *of, "IN_PROGRESS", assignee="bob", operator="bob"),
        happened(8, "REMINDED", *of, "IN_PROGRESS", assignee="bob"),
        happened(9, "ESCALATED", *of, "PENDING", group="managers"),
        happened(10, "VOTED", *of, "PENDING", group="managers", operator="dora", action="approve", decisionId="d1"),
        run=run,
    )
    task = await get(world, run, "a")
    assert (task.status, task.kind, task.title, task.priority, task.quorum) == (
        "PENDING",
        "approval",
        "Approve a",
        2,
        2,
    )
    assert (task.assigned_to, task.candidate_group, task.excluded) == (None, "managers", ["alice"])
    assert task.candidates is None, "whom the plan named had their time"
    assert (task.context, task.form, task.digest) == ({"amount": 17}, {"type": "object"}, "d" * 64)
    assert (task.created_by, task.plan_name, task.run_status) == ("alice", "deploy", "RUNNING")
    assert task.actions == ["approve", "reject", "edit"]
    times = (task.created_at, task.due_at, task.reminded_at, task.escalated_at, task.updated_at, task.completed_at)
    at = [chain.to_time(START + 1000 * seq) for seq in (5, 3600, 8, 9, 10)]
    assert times == (*at, None)
    assert [(one["operator"], one["action"]) for one in task.votes] == [("dora", "approve")]
    async with transaction(world.engine, TENANT) as conn:
        history = await human_tasks.history_of_task(conn, TENANT, task)
    assert [one.seq for one in history] == [5, 6, 7, 8, 9, 10]
    await world.flush(run, [completed(11, *of, decisionId="d2")], await head_of(world, run))
    task = await get(world, run, "a")
    assert (task.status, task.completed_by, task.notes, task.decision_id) == ("COMPLETED", "bob", "fine", "d2")
    assert task.decision == {"action": "approve", "values": {"ok": True}}
    assert task.completed_at == chain.to_time(START + 11_000)


async def head_of(world: World, run: Run) -> Head:
    found = await world.get(run)
    return {"epoch": found.head_epoch, "seq": found.head_seq, "hash": found.head_hash}


async def test_cancelled_and_expired_tasks_have_an_end_and_nobody_who_decided(world: World) -> None:
    """Expiry and the run's end close what is open."""
    run = await world.run()
    expired = happened(7, "EXPIRED", run.run_id, "a", "EXPIRED")
    cancelled = happened(8, "CANCELLED", run.run_id, "b", "CANCELLED")
    await asked(world, created(5, run.run_id, "a"), created(6, run.run_id, "b"), expired, cancelled, run=run)
    for node, status, seq in (("a", "EXPIRED", 7), ("b", "CANCELLED", 8)):
        task = await get(world, run, node)
        assert (task.status, task.completed_by, task.decision) == (status, None, None)
        assert task.completed_at == chain.to_time(START + 1000 * seq)


@pytest.mark.parametrize(
    "data",
    [
        {"task": "no uuid"},
        {"task": 7},
        {"taskStatus": "ELSEWHERE"},
        {"priority": 2**60, "quorum": -3, "dueAt": 10**30, "actions": "approve", "fourEyes": "yes", "kind": None},
        {"assignee": "x" * 100_000, "digest": float("nan"), "dueAt": "soon", "group": ["a"]},
    ],
)
async def test_no_fact_holds_up_a_flush(world: World, data: dict[str, Any]) -> None:
    """What does not fit is left out; the flush goes on."""
    run = await world.run()
    _, head = await asked(world, created(5, run.run_id, "a", {"title": 7, "form": float("inf")}, **data), run=run)
    assert head["seq"] == 5
    shown = await world.rows("SELECT title, quorum, due_at FROM human_tasks")
    assert shown in ([], [("a", 1, chain.to_time(START + 3_600_000))], [("a", 1, None)])


async def test_a_repeated_flush_changes_nothing(world: World) -> None:
    """An answer that was lost is asked again: one vote stays one vote."""
    run, head = await asked(world)
    batch = [created(5, run.run_id, "a"), happened(6, "VOTED", run.run_id, "a", "PENDING", operator="bob")]
    after = await world.flush(run, batch, head)
    assert await world.flush(run, batch, head) == after
    assert len((await get(world, run, "a")).votes) == 1


async def test_a_reset_takes_a_decision_back(world: World) -> None:
    """The task is open again, one that was only asked later is gone, and the history is what is left."""
    run, point = await asked(world)
    point = await world.flush(run, [created(5, run.run_id, "a")], point)
    await world.flush(run, [completed(6, run.run_id, "a"), created(7, run.run_id, "b")], point)
    later = [happened(6, "CLAIMED", run.run_id, "a", "IN_PROGRESS", assignee="eve")]
    await world.flush(run, later, point, current=True, execution="second")
    task = await get(world, run, "a")
    assert (task.status, task.assigned_to, task.completed_at, task.decision) == ("IN_PROGRESS", "eve", None, None)
    assert await listed(world) == ["a"]
    async with transaction(world.engine, TENANT) as conn:
        assert [one.id for one in await human_tasks.history_of_task(conn, TENANT, task)] == ["0.5", "1.6"]


async def test_a_reset_brings_back_the_tasks_of_a_run_that_was_taken_for_lost(world: World) -> None:
    """Also those that nothing has happened to since: what was lost is the end, not the task."""
    run, head = await asked(world)
    head = await world.flush(run, [created(5, run.run_id, "a")], head)
    late = await world.flush(run, [fact(6, "NODE_COMPLETED", "b", status="SUCCESS")], head)
    await lost(world, run)
    assert (await get(world, run, "a")).status == "CANCELLED"
    assert late["seq"] == 6
    await world.flush(run, [fact(6, "NODE_FAILED", "b", status="FAILED")], head, current=True, execution="second")
    assert (await get(world, run, "a")).status == "PENDING"


async def lost(world: World, run: Run) -> None:
    async with system_transaction(world.engine) as conn:
        [found] = await lost_runs.list_open_among(conn, [f"run-{run.run_id}"])
        assert await lost_runs.mark_lost(conn, found, {"message": "gone"}, "TERMINATED")


async def test_a_restored_backup_leaves_the_tasks_that_it_knows(world: World) -> None:
    """After a CHAIN_GAP a decision about a task that was lost makes a row as good as there can be."""
    run = await world.run()
    gap: Head = {"epoch": 0, "seq": 9, "hash": "e" * 64}
    await asked(world, created(5, run.run_id, "a"), run=run)
    facts = [happened(10, "CLAIMED", run.run_id, "b", "IN_PROGRESS", assignee="bob", operator="bob")]
    await world.flush(run, facts, gap, current=True)
    assert (await get(world, run, "a")).status == "PENDING"
    task = await get(world, run, "b")
    assert (task.title, task.status, task.assigned_to) == ("b", "IN_PROGRESS", "bob")


async def test_tasks_go_with_their_run(world: World) -> None:
    """Retention deletes them; erasure leaves who decided what, and nothing of what was said."""
    run, head = await asked(world)
    head = await world.flush(run, [created(5, run.run_id, "a"), completed(6, run.run_id, "a")], head)
    await world.flush(run, [fact(7, "PLAN_COMPLETED", status="COMPLETED")], head, status="COMPLETED")
    async with transaction(world.engine, TENANT) as conn:
        await retention.erase_bodies(conn, TENANT, run.run_id)
    task = await get(world, run, "a")
    assert (task.title, task.description, task.context, task.form, task.notes) == ("a", None, None, None, None)
    assert (task.decision, task.completed_by, task.digest) == ({"action": "approve"}, "bob", "d" * 64)
    async with system_transaction(world.engine) as conn:
        assert await retention.delete_finished_runs(conn, datetime.now(UTC)) == 0
    await world.rows_changed("UPDATE execution_runs SET completed_at = now() - interval '9 days'")
    async with system_transaction(world.engine) as conn:
        assert await retention.delete_finished_runs(conn, datetime.now(UTC)) == 1
    assert await world.rows("SELECT task_id FROM human_tasks") == []


async def inbox(world: World) -> Run:
    """Tasks of all kinds, by node: who they are for, and how urgent they are."""
    run = await world.run()
    at = run.run_id
    await asked(
        world,
        created(5, at, "free", priority=1),
        created(6, at, "mine", assignee="bob"),
        created(7, at, "hers", assignee="carol", priority=5),
        created(8, at, "ours", group="managers", priority=5),
        created(9, at, "theirs", group="lawyers"),
        created(10, at, "own", {"excluded": ["bob"]}, priority=9),
        created(11, at, "chosen", candidates=["carol", "dora"]),
        created(12, at, "late", assignee="carol", dueAt=1_000),
        created(13, at, "done", assignee="bob"),
        completed(14, at, "done"),
        happened(15, "CLAIMED", at, "mine", "IN_PROGRESS", assignee="bob", operator="bob"),
        created(16, at, "broken", kind="failure", actions=["retry", "skip", "abort"]),
        created(17, at, "voted", quorum=2),
        happened(18, "VOTED", at, "voted", "PENDING", operator="bob", action="approve"),
        run=run,
    )
    return run


BOB = Person("bob", ["managers"])


@pytest.mark.parametrize(
    ("wanted", "nodes"),
    [
        (TaskFilter(open=True), "own hers ours free mine theirs chosen late broken voted"),
        (TaskFilter(mine=BOB), "ours free mine broken"),
        (TaskFilter(mine=Person("carol")), "own hers free chosen late broken voted"),
        (TaskFilter(mine=Person("nobody", ["lawyers", "managers"])), "own ours free theirs broken voted"),
        (TaskFilter(statuses=["IN_PROGRESS", "COMPLETED"]), "mine done"),
        (TaskFilter(open=False), "done"),
        (TaskFilter(assignee="carol"), "hers late"),
        (TaskFilter(group="lawyers"), "theirs"),
        (TaskFilter(groups=("lawyers", "managers")), "ours theirs"),
        (TaskFilter(overdue=True), "late"),
        (TaskFilter(overdue=False, assignee="carol"), "hers"),
        (TaskFilter(kinds=["failure"]), "broken"),
        (TaskFilter(run_id=UUID(int=1)), ""),
    ],
    ids=str,
)
async def test_the_queries_of_an_inbox(world: World, wanted: TaskFilter, nodes: str) -> None:
    """His, the unassigned and his groups'; all by priority, then age; late ones; of one kind."""
    await inbox(world)
    assert " ".join(await listed(world, wanted)) == nodes


async def test_pages_of_every_order_are_the_whole_list(world: World) -> None:
    """By cursor, whatever the size of a page; the cursor of one order is none of the other."""
    run = await inbox(world)
    orders: list[dict[str, Any]] = [{}, {"newest_first": True}, {"by_due": True}]
    for order in orders:
        for size in (1, 3, 4):
            found, cursor = list[str](), None
            while True:
                async with transaction(world.engine, TENANT) as conn:
                    wanted = TaskFilter(run_id=run.run_id)
                    page = await human_tasks.list_tasks(conn, TENANT, wanted, **order, limit=size, cursor=cursor)
                found += [one.node_id for one in page.items]
                cursor = page.cursor
                if cursor is None:
                    break
            assert found == await listed(world, **order)
    of_no_priority = (await listed(world, TaskFilter(open=True), by_due=True))[4:]
    assert of_no_priority[0] == "late", "it is due first"
    assert (await listed(world, newest_first=True))[:2] == ["voted", "broken"]
    async with transaction(world.engine, TENANT) as conn:
        page = await human_tasks.list_tasks(conn, TENANT, limit=1)
        with pytest.raises(InvalidCursor):
            await human_tasks.list_tasks(conn, TENANT, newest_first=True, cursor=page.cursor)


async def test_counts_are_of_one_tenant(world: World) -> None:
    """By status, open ones by group, overdue, unassigned and one's own."""
    await inbox(world)
    async with transaction(world.engine, TENANT) as conn:
        counts = await human_tasks.count_tasks(conn, TENANT, BOB)
        other = await human_tasks.count_tasks(conn, "other", BOB)
        assert await human_tasks.count_waiting(conn, TENANT, BOB) == counts.mine
        assert await human_tasks.get_task(conn, "other", task_id(uuid4(), "a")) is None
    assert counts.by_status == {"PENDING": 9, "IN_PROGRESS": 1, "COMPLETED": 1}
    assert counts.by_group == {"": 8, "managers": 1, "lawyers": 1}
    assert (counts.overdue, counts.unassigned, counts.mine) == (1, 7, 4)
    assert other == human_tasks.TaskCounts({}, {}, 0, 0, 0)
