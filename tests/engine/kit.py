"""What engine tests share: a real worker with recording handlers, and a way to start plans without the API."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle

from dalang import wire
from dalang.compilation import compile_packed
from dalang.nesting import embedded_plans
from dalang.nodes import registry
from dalang.plan import Plan, with_derived_ids
from dalang.settings import Settings
from dalang.store.blobs import PostgresBlobDriver
from dalang.store.engine import create_engine, transaction
from dalang.store.plans import put_document
from dalang.store.runs import NewRun, create_run
from dalang.store.verification import verify_run
from dalang.temporal import connect
from dalang.worker import worker
from tests.engine import handlers, remembering  # noqa: F401 - they register the node types the plans use
from tests.harness import PATIENCE

TENANT = "tests"


def noop_chain(count: int) -> dict[str, Any]:
    """Return the nodes and edges of a chain."""
    return {
        "nodes": [{"nodeId": f"n{i}", "type": "noop"} for i in range(count)],
        "edges": [{"sourceNodeId": f"n{i}", "targetNodeId": f"n{i + 1}"} for i in range(count - 1)],
    }


@dataclass
class Started:
    """A run under way."""

    engine: Engine
    run_id: str
    handle: WorkflowHandle[Any, Any]

    async def end(self, within: float = 150) -> dict[str, Any]:
        """Wait for the run's end and return its row, events, nodes by id, and the workflow's result or error."""
        result: Any = None
        try:
            result = await asyncio.wait_for(self.handle.result(), within)
        except WorkflowFailureError as error:
            result = error.cause
        return {**await self.stored(), "result": result}

    async def stored(self) -> dict[str, Any]:
        """Return what Postgres holds of the run now."""
        return await self.engine.stored(self.run_id)

    async def until(self, event: str, node: str | None = None, within: float = PATIENCE) -> None:
        """Wait until an event of this type (and node) is stored."""
        async with asyncio.timeout(within):
            while True:
                with contextlib.suppress(NoResultFound):  # a run below a node has no row before its first batch
                    for row in (await self.stored())["events"]:
                        if row["type"] == event and node in (None, row["node_id"]):
                            return
                await asyncio.sleep(0.05)


@dataclass
class Engine:
    """A client and a database; ``start`` starts plans as the API would."""

    settings: Settings
    client: Client
    db: AsyncEngine
    delay: timedelta | None = None
    """So long the first task of what is started waits, as where workers do not keep up."""

    async def start(self, plan: Mapping[str, Any], inputs: Mapping[str, Any] | None = None, **state: Any) -> Started:
        """Validate, store and start a plan."""
        valid = with_derived_ids(Plan.model_validate({"name": "test", **plan}))
        return await self.start_plan(valid, dict(inputs or {}), **state)

    async def start_plan(self, plan: Plan, inputs: dict[str, Any], **state: Any) -> Started:
        """Store and start a validated plan."""
        return await self.start_prepared(plan, await self.prepare(plan), inputs, **state)

    async def prepare(self, plan: Plan) -> tuple[str, dict[str, Any]]:
        """Store and compile a validated plan, as the API does once for many runs; return its digest and program."""
        async with transaction(self.db, TENANT) as conn:
            digest = await put_document(conn, TENANT, plan)
            for inner in embedded_plans(plan):
                await put_document(conn, TENANT, inner)
        return digest, compile_packed(plan, registry.light)

    async def start_prepared(
        self, plan: Plan, prepared: tuple[str, dict[str, Any]], inputs: dict[str, Any], **state: Any
    ) -> Started:
        """Start a plan that was prepared."""
        run_id, (digest, program) = uuid.uuid4(), prepared
        assert plan.plan_id is not None
        async with transaction(self.db, TENANT) as conn:
            new = NewRun(
                run_id=run_id,
                tenant_id=TENANT,
                plan_id=plan.plan_id,
                plan_name=plan.name,
                plan_version=plan.version,
                plan_digest=digest,
                created_by="tester",
                priority=plan.priority,
                inputs=inputs,
                total_nodes=len(plan.all_nodes()),
            )
            await create_run(conn, new)
        about = {"id": str(run_id), "plan": plan.name, "planVersion": plan.version, "tenantId": TENANT}
        given = {
            "engine": wire.ENGINE_VERSION,
            "runId": str(run_id),
            "tenantId": TENANT,
            "inputs": inputs,
            "about": about,
            "maxInFlight": self.settings.max_in_flight,
            "historyLimit": self.settings.history_events_limit,
            **state,
        }
        handle = await self.client.start_workflow(
            wire.PLAN_RUN,
            args=[program, given],
            id=f"{wire.WORKFLOW_ID_PREFIX}{run_id}",
            task_queue=self.settings.task_queue,
            start_delay=self.delay,
        )
        return Started(self, str(run_id), handle)

    async def stored(self, run_id: str) -> dict[str, Any]:
        """Return run, events and nodes of a run."""
        async with transaction(self.db, TENANT) as conn:
            run = (await conn.execute(text("select * from execution_runs where run_id = :r"), {"r": run_id})).mappings()
            events = await conn.execute(
                text(
                    "select e.*, b.body from run_events e left join event_bodies b using (run_id, epoch, seq)"
                    " where run_id = :r order by epoch, seq"
                ),
                {"r": run_id},
            )
            nodes = await conn.execute(text("select * from node_executions where run_id = :r"), {"r": run_id})
            attempts = await conn.execute(
                text("select * from node_attempts where run_id = :r order by node_id, starts, attempt"), {"r": run_id}
            )
            return {
                "run": dict(run.one()),
                "events": [dict(row) for row in events.mappings()],
                "nodes": {row["node_id"]: dict(row) for row in nodes.mappings()},
                "attempts": [dict(row) for row in attempts.mappings()],
            }

    async def chain_problem(self, run_id: str) -> Any:
        """Return the first break of the run's chain, or None."""
        async with transaction(self.db, TENANT) as conn:
            verification = await verify_run(conn, TENANT, uuid.UUID(run_id))
            return verification.finding


@contextlib.asynccontextmanager
async def engine(settings: Settings, *, with_worker: bool = True) -> AsyncIterator[Engine]:
    """A connected engine, with a worker of its own unless told otherwise."""
    db = create_engine(settings)
    client = await connect(settings, storage_driver=PostgresBlobDriver(db))
    try:
        async with contextlib.AsyncExitStack() as parts:
            if with_worker:
                await parts.enter_async_context(worker(settings))
            yield Engine(settings, client, db)
    finally:
        await db.dispose()


def node_events(stored: Mapping[str, Any], node: str) -> list[str]:
    """Return the types of a node's events in order."""
    return [row["type"] for row in stored["events"] if row["node_id"] == node]


def body_of(stored: Mapping[str, Any], kind: str, node: str | None = None) -> Any:
    """Return the body of the first event of this type and node."""
    return next(row["body"] for row in stored["events"] if row["type"] == kind and node in (None, row["node_id"]))
