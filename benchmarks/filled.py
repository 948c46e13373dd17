"""A database full of finished runs, written by SQL as they would stand there after months, for benchmarks.

Not every run has its nodes and events: that would be gigabytes, and no list reads them; ``detailed`` of them do.
Chains of generated events are not valid; :func:`real_runs` makes some that are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from dalang.store.engine import transaction
from dalang.store.recording import record
from dalang.store.runs import NewRun, create_run
from dalang.wire import Fact, Head

TENANT = "default"
DAYS = 180
"""Over so long a time the runs are spread."""
NODES, EVENTS = 5, 14
RARE_PLAN, RARE_LABEL = "quarterly-audit", "ticket=T-77777"
_EMPTY: Head = {"epoch": 0, "seq": 0, "hash": ""}

# md5 of the number is the run's id, so that what refers to it is computed, too.
_RUNS = f"""
INSERT INTO execution_runs (run_id, tenant_id, plan_id, plan_name, plan_version, plan_digest, status, created_by,
  created_at, started_at, completed_at, last_updated_at, last_event_at, metadata, inputs, outputs, error, error_message,
  total_nodes, node_status_counts, workflow_id, temporal_run_id, temporal_namespace, head_seq, head_hash, retry_count,
  parent_run_id, parent_node_id, top_run_id)
SELECT id, tenant, md5('plan' || plan)::uuid, plan, '1.' || (i % 7) || '.0', repeat(md5(plan), 2), status,
  CASE WHEN i % 3 = 0 THEN 'schedule:nightly-' || i % 20 ELSE 'person-' || i % 50 END,
  at, at + interval '40 ms', at + length, at + length, at + length,
  CASE WHEN i % 10 < 3 THEN jsonb_build_object('team', 'team-' || i % 12, 'ticket', 'T-' || i, 'env',
    CASE WHEN age < {DAYS} / 2 THEN 'prod' ELSE 'old-prod' END) ELSE '{{}}' END,
  jsonb_build_object('customer', 'c-' || i % 9973, 'amount', i % 1000, 'note', repeat('x', 100)),
  CASE WHEN status = 'COMPLETED' THEN jsonb_build_object('invoice', md5(i::text), 'total', i % 1000) END,
  CASE WHEN status = 'FAILED' THEN '{{"type": "TOOL_ERROR", "message": "the tool answered 500"}}'::jsonb END,
  CASE WHEN status = 'FAILED' THEN 'the tool answered 500' END,
  {NODES}, CASE status WHEN 'COMPLETED' THEN '{{"SUCCESS": {NODES}}}' ELSE '{{"SUCCESS": 3, "FAILED": 1, "SKIPPED": 1}}'
    END::jsonb,
  'run-' || id, md5('execution' || i)::uuid::text, 'default', {EVENTS}, repeat(md5('head' || i), 2), (i % 20 = 0)::int,
  CASE WHEN is_child THEN md5((i - 1)::text)::uuid END, CASE WHEN is_child THEN 'each' END,
  CASE WHEN is_child THEN md5((i - 1)::text)::uuid END
FROM (
  SELECT i, md5(i::text)::uuid AS id, i % 10 = 9 AS is_child,
    CASE WHEN i % 10 < 6 OR i % 10 = 9 THEN '{TENANT}' ELSE 'tenant-' || i % 20 END AS tenant,
    CASE WHEN i % 50000 = 0 THEN '{RARE_PLAN}' WHEN i % 2 = 0 THEN 'order-to-invoice'
      ELSE 'plan-' || (hashint4(i) & 63) || '-review' END AS plan,
    CASE WHEN i % 20 = 0 THEN 'FAILED' WHEN i % 50 = 1 THEN 'CANCELLED' ELSE 'COMPLETED' END AS status,
    {DAYS} * (1 - i::float / $3) AS age,
    now() - {DAYS} * (1 - i::float / $3) * interval '1 day' - interval '1 hour' AS at,
    (i % 600 + 1) * interval '1 second' AS length
  FROM generate_series($1::int, $2::int) AS i
) AS made
"""
_NODES = f"""
INSERT INTO node_executions (run_id, node_id, tenant_id, status, attempt, max_attempts, started_at, completed_at,
  created_at, updated_at, revision_epoch, revision, output_epoch, output_seq)
SELECT run_id, 'node-' || n, tenant_id, 'SUCCESS', 1, 3, created_at, completed_at, created_at, completed_at,
  0, 2 * n + 1, 0, 2 * n + 1 FROM detailed, generate_series(1, {NODES}) AS n
"""
_EVENTS = f"""
INSERT INTO run_events (run_id, epoch, seq, tenant_id, type, node_id, at, data, body_digest, fact_digest, previous_hash,
  hash, recorded_at, audit)
SELECT run_id, 0, n, tenant_id,
  CASE WHEN n = 1 THEN 'PLAN_STARTED' WHEN n > {EVENTS} - 3 THEN 'PLAN_COMPLETED' WHEN n % 2 = 0 THEN 'NODE_STARTED'
    ELSE 'NODE_COMPLETED' END,
  CASE WHEN n BETWEEN 2 AND {EVENTS} - 3 THEN 'node-' || n / 2 END, created_at + n * interval '1 second',
  jsonb_build_object('status', CASE WHEN n % 2 = 0 THEN 'RUNNING' ELSE 'SUCCESS' END, 'attempt', 1),
  CASE WHEN n % 2 = 1 THEN repeat(md5('b' || n), 2) END, repeat(md5('f' || n), 2), repeat(md5('p' || n), 2),
  repeat(md5(run_id::text || n), 2), created_at + n * interval '1 second',
  '{{"actor": {{"type": "system", "id": "dalang"}}}}'
FROM detailed, generate_series(1, {EVENTS}) AS n
"""
_BODIES = f"""
INSERT INTO event_bodies (run_id, epoch, seq, tenant_id, salt, body)
SELECT run_id, 0, n, tenant_id, uuid_send(run_id), jsonb_build_object('outputs', jsonb_build_object('text',
  repeat(md5(run_id::text || n), 6))) FROM detailed, generate_series(1, {EVENTS}, 2) AS n
"""
_TASKS = """
INSERT INTO human_tasks (tenant_id, task_id, run_id, node_id, kind, status, title, priority, assigned_to,
  candidate_group, digest, actions, context, decision, created_at, updated_at, due_at, completed_at, completed_by,
  revision_epoch, revision)
SELECT tenant_id, md5('task' || run_id)::uuid, run_id, 'node-3', 'approval', 'COMPLETED', 'Release the invoice', i % 3,
  'person-' || i % 50, 'group-' || i % 8, repeat(md5('d'), 2), '["approve", "reject"]', '{"total": 17}',
  '{"action": "approve"}', created_at, completed_at, created_at + interval '1 day', completed_at, 'person-' || i % 50,
  0, 7 FROM detailed
"""
_OPEN_RUNS = """
UPDATE execution_runs SET status = 'AWAITING_HITL', completed_at = NULL, outputs = NULL
WHERE run_id IN (SELECT md5((i * 37)::text)::uuid FROM generate_series(1, $1::int) AS i)
"""
_OPEN_TASKS = """
INSERT INTO human_tasks (tenant_id, task_id, run_id, node_id, kind, status, title, priority, candidate_group, digest,
  actions, context, created_at, updated_at, due_at, revision_epoch, revision)
SELECT tenant_id, md5('open' || run_id)::uuid, run_id, 'node-4', 'approval', 'PENDING', 'Release the invoice',
  (hashtext(run_id::text) & 3), 'group-' || (hashtext(run_id::text) & 7), repeat(md5('d'), 2),
  '["approve", "reject"]', '{"total": 17}', created_at, created_at, created_at + interval '200 days', 0, 7
FROM execution_runs WHERE completed_at IS NULL
"""
_LABELS = """
INSERT INTO run_labels SELECT tenant_id, label.name, label.value, created_at, run_id
FROM execution_runs, dalang_labels(metadata) AS label ON CONFLICT DO NOTHING
"""
_CHUNK = 50_000


@dataclass(frozen=True)
class Filling:
    """How much is written: ``detailed`` is the share of runs that have nodes, events and a human task."""

    runs: int
    detailed: float
    waiting: int = 1_000


async def fill(superuser: asyncpg.Connection, filling: Filling) -> None:
    """Write the runs, oldest first; foreign keys are not checked, and the commit does not wait for the disk."""
    await superuser.execute("SET session_replication_role = replica; SET synchronous_commit = off; SET jit = off")
    every = max(round(1 / filling.detailed), 1) if filling.detailed else 0
    for first in range(1, filling.runs + 1, _CHUNK):
        last = min(first + _CHUNK - 1, filling.runs)
        async with superuser.transaction():
            await superuser.execute(_RUNS, first, last, filling.runs)
            if not every:
                continue
            await superuser.execute(
                "CREATE TEMP TABLE detailed ON COMMIT DROP AS SELECT r.*, i FROM execution_runs r"
                f" JOIN generate_series({first}, {last}) AS i ON r.run_id = md5(i::text)::uuid WHERE i % {every} = 0"
            )
            for statement in (_NODES, _EVENTS, _BODIES, _TASKS):
                await superuser.execute(statement)
    await superuser.execute(_OPEN_RUNS, min(filling.waiting, filling.runs // 40))
    await superuser.execute(_OPEN_TASKS)
    await superuser.execute("SET session_replication_role = origin")
    if await superuser.fetchval("SELECT to_regclass('run_labels') IS NOT NULL"):  # triggers were off
        await superuser.execute(_LABELS)
    if await superuser.fetchval("SELECT EXISTS (SELECT FROM pg_proc WHERE proname = 'dalang_tally_again')"):
        await superuser.execute("SELECT dalang_tally_again()")
    await superuser.execute("VACUUM ANALYZE")


async def real_runs(engine: AsyncEngine, count: int) -> list[UUID]:
    """Store runs as workers do, with valid chains; for what proves them."""
    made = []
    for number in range(count):
        async with transaction(engine, TENANT) as conn:
            new = NewRun(TENANT, uuid4(), "proven", "1", "0" * 64, "benchmark", NODES)
            run_id = (await create_run(conn, new))[0].run_id
        await record(
            engine, _batch(run_id), temporal_run_id=f"x{number}", workflow_id=f"run-{run_id}", is_current=_never
        )
        made.append(run_id)
    return made


def _batch(run_id: UUID) -> Any:
    at = int(datetime.now(UTC).timestamp() * 1000)
    facts: list[Fact] = [{"seq": 1, "type": "PLAN_STARTED", "at": at, "data": {"status": "RUNNING"}}]  # type: ignore[typeddict-item]
    for number in range(NODES):
        for kind, status in (("NODE_STARTED", "RUNNING"), ("NODE_COMPLETED", "SUCCESS")):
            fact = {"seq": len(facts) + 1, "type": kind, "at": at, "nodeId": f"node-{number}"}
            facts.append({**fact, "data": {"status": status, "attempt": 1}, "body": {"outputs": {"n": number}}})  # type: ignore[typeddict-item]
    facts.append({"seq": len(facts) + 1, "type": "PLAN_COMPLETED", "at": at, "data": {"status": "COMPLETED"}})  # type: ignore[typeddict-item]
    counts = {"SUCCESS": NODES}
    about = {"runId": str(run_id), "tenantId": TENANT, "head": _EMPTY, "facts": facts}
    return {**about, "status": "COMPLETED", "counts": counts, "final": True}


async def _never() -> bool:
    raise AssertionError("the heads are equal")


def run_id(number: int) -> UUID:
    """Return the id of a generated run."""
    return _hashed(str(number))


def task_id(number: int, what: str = "task") -> UUID:
    """Return the id of the human task of a generated run that has its details."""
    return _hashed(f"{what}{run_id(number)}")


def plan_id(name: str) -> UUID:
    """Return the id of a generated plan."""
    return _hashed(f"plan{name}")


def _hashed(text: str) -> UUID:
    return UUID(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())
