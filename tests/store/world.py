"""Shorthands for tests of the store: runs, facts, and flushes as the workflow sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from dalang.signing import Keyring
from dalang.store.chain import EMPTY_HEAD
from dalang.store.engine import system_transaction, transaction
from dalang.store.recording import record
from dalang.store.runs import NewRun, Run, create_run, get_run
from dalang.wire import Fact, Head, RecordInput, RunIdentity

TENANT = "acme"
START = 1_800_000_000_000
"""Workflow time of fact 0, in milliseconds; every later fact is one second later."""


def new_run(**changes: Any) -> NewRun:
    """A request for a run of a plan of three nodes."""
    request = NewRun(
        tenant_id=TENANT,
        plan_id=UUID(int=7),
        plan_name="deploy",
        plan_version="1.0.0",
        plan_digest="0" * 64,
        created_by="alice",
        total_nodes=3,
        inputs={"feature": "login"},
    )
    return replace(request, **changes)


def fact(seq: int, type_: str, node: str | None = None, body: Any = None, **data: Any) -> Fact:
    """One fact as the workflow numbers it."""
    made: Fact = {"seq": seq, "type": type_, "at": START + 1000 * seq, "data": data}
    if node is not None:
        made["nodeId"] = node
    if body is not None:
        made["body"] = body
    return made


def begun() -> list[Fact]:
    """The first four facts of a run: two nodes started."""
    return [
        fact(1, "PLAN_VALIDATED", status="VALIDATED"),
        fact(2, "PLAN_STARTED", body={"inputs": {"feature": "login"}}, status="RUNNING"),
        fact(3, "NODE_STARTED", "a", {"inputs": {"x": 1}}, status="RUNNING", maxAttempts=3, generation=0),
        fact(4, "NODE_STARTED", "b", {"inputs": {}}, status="RUNNING", maxAttempts=1, generation=0),
    ]


def ended(first: int = 5) -> list[Fact]:
    """What follows: a succeeds at its second attempt, b fails, c is skipped, the run fails."""
    error = {"type": "TOOL_ERROR", "message": "broken", "retryable": False}
    return [
        fact(first, "NODE_COMPLETED", "a", {"outputs": {"y": 2.5}}, status="SUCCESS", attempt=2),
        fact(first + 1, "NODE_FAILED", "b", {"error": error}, status="FAILED", attempt=1),
        fact(first + 2, "NODE_SKIPPED", "c", status="SKIPPED", skipReason="upstreamFailed"),
        fact(first + 3, "PLAN_FAILED", body={"error": error}, status="FAILED"),
    ]


class World:
    """One tenant's store, seen from a workflow."""

    def __init__(self, engine: AsyncEngine, keys: Keyring | None = None) -> None:
        self.engine = engine
        self.keys = keys or Keyring()

    async def run(self, **changes: Any) -> Run:
        """Make a run."""
        async with transaction(self.engine, changes.get("tenant_id", TENANT)) as conn:
            return (await create_run(conn, new_run(**changes)))[0]

    async def get(self, run: Run) -> Run:
        """Read a run again."""
        async with transaction(self.engine, run.tenant_id) as conn:
            found = await get_run(conn, run.tenant_id, run.run_id)
        assert found is not None
        return found

    async def flush(
        self,
        run: Run | UUID,
        facts: list[Fact],
        head: Head = EMPTY_HEAD,
        *,
        status: str = "RUNNING",
        counts: dict[str, int] | None = None,
        current: bool | None = None,
        execution: str = "first",
        identity: RunIdentity | None = None,
    ) -> Head:
        """Flush as the execution ``execution``; ``current`` None: Temporal must not be asked."""
        request: RecordInput = {
            "runId": str(run if isinstance(run, UUID) else run.run_id),
            "tenantId": TENANT if isinstance(run, UUID) else run.tenant_id,
            "head": {"epoch": head["epoch"], "seq": head["seq"], "hash": head["hash"]},  # as the workflow does
            "facts": facts,
            "status": status,
            "counts": counts or {},
            "final": False,
        }
        if identity is not None:
            request["identity"] = identity

        async def is_current() -> bool:
            await asyncio.sleep(0)
            assert current is not None, "Temporal was asked"
            return current

        return await record(
            self.engine,
            request,
            temporal_run_id=execution,
            workflow_id=f"run-{request['runId']}",
            is_current=is_current,
            keys=self.keys,
        )

    async def whole(self) -> tuple[Run, Head]:
        """A run from its first event to its last."""
        run = await self.run()
        head = await self.flush(run, begun())
        head = await self.flush(run, ended(), head, status="FAILED", counts={"SUCCESS": 1, "FAILED": 1, "SKIPPED": 1})
        return run, head

    async def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Ask the database."""
        async with system_transaction(self.engine) as conn:
            return [tuple(row) for row in await conn.execute(text(sql), values)]

    async def rows_changed(self, sql: str, **values: Any) -> int:
        """Change the database, as the processes' role may; return how many rows."""
        async with system_transaction(self.engine) as conn:
            return int((await conn.execute(text(sql), values)).rowcount)


async def tamper(engine: AsyncEngine, sql: str, **values: Any) -> None:
    """Change the database behind everybody's back, foreign keys and all."""
    async with engine.begin() as conn:
        await conn.execute(text("SET LOCAL session_replication_role = replica"))
        done = await conn.execute(text(sql), values)
        assert done.rowcount > 0, "nothing was tampered with"


@asynccontextmanager
async def intrusion(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection on which everything may be tampered with, and looked at; at the end it is as it was before."""
    async with engine.connect() as conn:
        await conn.execute(text("SET LOCAL session_replication_role = replica"))
        yield conn
        await conn.rollback()


async def change(conn: AsyncConnection, sql: str, **values: Any) -> None:
    """Tamper with something on such a connection."""
    assert (await conn.execute(text(sql), values)).rowcount > 0, "nothing was tampered with"


def other_run() -> UUID:
    """The id of a run that nobody made."""
    return uuid4()
