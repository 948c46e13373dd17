"""Whatever is flushed, repeated and reset in whatever order: the read model is that of the facts that are left."""

from __future__ import annotations

from random import Random
from typing import Any
from uuid import UUID

import pytest

from dalang.statuses import NodeStatus, RunStatus, TaskStatus
from dalang.store.chain import EMPTY_HEAD
from dalang.store.engine import transaction
from dalang.store.runs import Run
from dalang.store.verification import verify_run
from dalang.wire import Fact, Head
from tests.store.world import TENANT, World, fact

Point = tuple[Head, list[Fact]]


def random_fact(random: Random, seq: int) -> Fact:
    """A fact that may be out of order for a real run: the store does not judge."""
    if random.random() < 0.15:
        status = random.choice(list(RunStatus))
        body = random.choice([None, {"inputs": seq}, {"outputs": seq}, {"error": {"message": str(seq)}}])
        return fact(seq, f"PLAN_{status}", None, body, status=status, reason=random.choice([None, "why"]))
    if random.random() < 0.3:
        return random_task_fact(random, seq)
    status_ = random.choice([*NodeStatus, "ELSEWHERE"])
    body = random.choice([None, {"inputs": seq}, {"outputs": seq}, {"error": {"message": str(seq)}}])
    data: dict[str, Any] = {"status": status_}
    for name in ("attempt", "maxAttempts", "generation"):
        if random.random() < 0.4:
            data[name] = random.randint(0, 3)
    return fact(seq, f"NODE_{status_}", random.choice("abcde"), body, **data)


def random_task_fact(random: Random, seq: int) -> Fact:
    """Something that happened to one of four tasks, in any order."""
    what = random.choice(["CREATED", "CLAIMED", "REMINDED", "ESCALATED", "VOTED", "COMPLETED"])
    number = random.randint(0, 3)
    data = {"task": str(UUID(int=number)), "taskStatus": random.choice([*TaskStatus, "ELSEWHERE"])}
    for name in ("assignee", "group", "operator"):
        if random.random() < 0.4:
            data[name] = random.choice([None, "alice", "bob"])
    body = random.choice([None, {"title": str(seq), "context": seq}, {"decision": {"action": "approve"}}])
    return fact(seq, f"HITL_TASK_{what}", "abcd"[number], body, **data)


async def read_model(world: World, run_id: UUID) -> list[Any]:
    """Everything the events decide, without epochs and hashes."""
    nodes = await world.rows(
        "SELECT node_id, status, attempt, max_attempts, generation, skip_reason, started_at, completed_at, created_at, "
        "updated_at, revision, input_seq, output_seq, error_seq, metadata FROM node_executions "
        "WHERE run_id = :run ORDER BY node_id",
        run=run_id,
    )
    runs = await world.rows(
        "SELECT status, started_at, completed_at, reason, error, error_message, inputs, outputs, head_seq, "
        "last_event_at FROM execution_runs WHERE run_id = :run",
        run=run_id,
    )
    tasks = await world.rows(
        "SELECT task_id, node_id, title, status, assigned_to, candidate_group, context, votes, decision, created_at, "
        "updated_at, reminded_at, escalated_at, completed_at, completed_by, revision FROM human_tasks "
        "WHERE run_id = :run ORDER BY task_id",
        run=run_id,
    )
    return [*nodes, *runs, *tasks]


def status_after(facts: list[Fact]) -> str:
    """What a workflow would report."""
    found = [one["data"]["status"] for one in facts if one["type"].startswith("PLAN_")]
    return str(found[-1]) if found else "PENDING"


@pytest.mark.parametrize("seed", range(12))
async def test_the_read_model_is_that_of_the_facts_that_are_left(world: World, seed: int) -> None:
    """Random batches, repetitions of lost answers, and resets to any head that ever was."""
    random = Random(seed)
    run = await world.run()
    points: list[Point] = [(EMPTY_HEAD, [])]
    point = points[0]
    for _ in range(25):
        if random.random() < 0.3:
            point = random.choice(points)
        head, facts = point
        batch = [random_fact(random, head["seq"] + n) for n in range(1, random.randint(1, 6) + 1)]
        left = facts + batch
        for _ in range(random.randint(1, 2)):
            after = await world.flush(run, batch, head, status=status_after(left), current=True)
        point = (after, left)
        points.append(point)
    reference: Run = await world.run(tenant_id="other")  # ids of tasks are unique within a tenant
    await world.flush(reference, point[1], status=status_after(point[1]))
    assert await read_model(world, run.run_id) == await read_model(world, reference.run_id)
    async with transaction(world.engine, TENANT) as conn:
        result = await verify_run(conn, TENANT, run.run_id, recorded=random.choice(points)[0])
    assert result.finding is None
