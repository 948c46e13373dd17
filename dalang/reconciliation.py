"""After PostgreSQL was restored from a backup: what Temporal's histories still tell is put into it again.

Runs in flight catch up by themselves (``store/recording.py``). Those that ended after the backup was made do not: the
restored database has them open for ever, or knows nothing of them. But each batch of facts that a run stored stands in
its history, as the input of an activity. So the facts after the database's head are recorded once more, and after them
a CHAIN_GAP with both heads: the salts of bodies are gone, so the hashes are others than those that Temporal saw, and
nobody shall take them for the same.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.api.enums.v1 import EventType as Kind
from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError, RPCStatusCode

from dalang import wire
from dalang.errors import DalangError
from dalang.event_types import EventType
from dalang.fact_packing import with_facts
from dalang.recorded_head import recorded_head
from dalang.signing import Keyring
from dalang.store.engine import system_transaction, transaction
from dalang.store.lost_runs import list_open_workflows
from dalang.store.recording import record
from dalang.store.runs import NewRun, create_run
from dalang.store.stored_chain import head_of, is_accounted_for

logger = logging.getLogger("dalang.reconciliation")


@dataclass
class Reconciled:
    """What was done, by run id: ``restored`` is what had ended without the database knowing."""

    restored: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    """Of whose facts Temporal has forgotten some: they were left as they are."""
    unknown: list[str] = field(default_factory=list)
    """Open in the database, and Temporal has never heard of them, or has forgotten them."""
    seen: int = 0


@dataclass
class _History:
    """What the histories of a run's executions tell: its input, and the facts it stored, by number."""

    state: Mapping[str, Any] = field(default_factory=dict)
    facts: dict[int, wire.Fact] = field(default_factory=dict)
    last: wire.RecordInput | None = None
    identity: wire.RunIdentity | None = None


class Reconciliation:
    """Compares what has ended in Temporal with the database. It may be repeated; then it finds nothing to do."""

    def __init__(self, engine: AsyncEngine, client: Client, keys: Keyring) -> None:
        self._engine = engine
        self._client = client
        self._keys = keys

    async def reconcile(self, since: datetime | None = None) -> Reconciled:
        """Look at all runs that have ended since, and at all that the database has open."""
        done = Reconciled()
        async for execution in self._ended(since):
            done.seen += 1
            try:
                await self._settle(execution, done)
            except DalangError as error:
                logger.warning("workflow %s could not be compared: %s", execution.id, error)
                done.incomplete.append(execution.id.removeprefix(wire.WORKFLOW_ID_PREFIX))
        async with system_transaction(self._engine) as conn:
            still_open = await list_open_workflows(conn)
        for workflow_id in still_open:
            if not await self._is_known(workflow_id):
                done.unknown.append(workflow_id.removeprefix(wire.WORKFLOW_ID_PREFIX))
        return done

    async def _ended(self, since: datetime | None) -> AsyncIterator[WorkflowExecution]:
        query = f"WorkflowType = '{wire.PLAN_RUN}' AND ExecutionStatus IN ('Completed', 'Failed', 'Canceled')"
        if since is not None:
            query += f" AND CloseTime > '{since.astimezone(UTC).isoformat(timespec='seconds').replace('+00:00', 'Z')}'"
        async for execution in self._client.list_workflows(query):
            yield execution

    async def _is_known(self, workflow_id: str) -> bool:
        try:
            await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def _settle(self, execution: WorkflowExecution, done: Reconciled) -> None:
        """Put a run's missing facts into the database, if there are any."""
        try:
            run_id = UUID(execution.id.removeprefix(wire.WORKFLOW_ID_PREFIX))
        except ValueError:
            return
        told = await recorded_head(self._client, execution.id)
        recorded = told if isinstance(told, Mapping) else None  # one that was cancelled has no result
        async with system_transaction(self._engine) as conn:
            if recorded is not None and await is_accounted_for(conn, run_id, recorded):
                return
            stored = await head_of(conn, run_id)
        history = await self._read(execution)
        head: wire.Head = stored or {"epoch": 0, "seq": 0, "hash": ""}
        facts = [history.facts[number] for number in sorted(history.facts) if number > head["seq"]]
        if recorded is None and stored is not None and not facts:
            return
        whole = [fact["seq"] for fact in facts] == list(range(head["seq"] + 1, head["seq"] + 1 + len(facts)))
        same_epoch = recorded is None or recorded["epoch"] == head["epoch"]
        if not facts or not whole or history.last is None or not same_epoch:
            done.incomplete.append(str(run_id))
            return
        if stored is None and history.identity is None:
            await self._make_row(run_id, history)
        last: wire.Head = {"epoch": head["epoch"], "seq": facts[-1]["seq"], "hash": ""}
        gap: wire.Fact = {
            "seq": facts[-1]["seq"] + 1,
            "type": str(EventType.CHAIN_GAP),
            "at": int(datetime.now(UTC).timestamp() * 1000),
            "data": {"stored": dict(head), "claimed": dict(recorded or last)},
        }
        request: wire.RecordInput = {**history.last, "head": head, "facts": [*facts, gap], "final": True}
        if stored is None and history.identity is not None:
            request["identity"] = history.identity

        async def is_current() -> bool:
            return True

        await record(
            self._engine,
            request,
            temporal_run_id=execution.run_id,
            workflow_id=execution.id,
            is_current=is_current,
            keys=self._keys,
        )
        done.restored.append(str(run_id))

    async def _read(self, execution: WorkflowExecution) -> _History:
        """Read the histories of a run's executions, the last first, back to where the facts begin."""
        found = _History()
        run: str | None = execution.run_id
        while run:
            before: str | None = None
            handle = self._client.get_workflow_handle(execution.id, run_id=run)
            try:
                async for event in handle.fetch_history_events():
                    if event.event_type == Kind.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                        begun = event.workflow_execution_started_event_attributes
                        before = begun.continued_execution_run_id or None
                        given = await self._client.data_converter.decode(begun.input.payloads)
                        if len(given) > 1 and isinstance(given[1], dict):
                            found.state = given[1]
                    elif event.event_type == Kind.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                        task = event.activity_task_scheduled_event_attributes
                        if task.activity_type.name == wire.RECORD:
                            (batch,) = await self._client.data_converter.decode(task.input.payloads)
                            self._take(found, batch, newest=run == execution.run_id)
                    elif event.event_type == Kind.EVENT_TYPE_MARKER_RECORDED:
                        told = event.marker_recorded_event_attributes.details.get("result")
                        answer = await self._client.data_converter.decode(told.payloads) if told else [None]
                        if isinstance(answer[0], dict) and "batch" in answer[0]:  # of the last batch, stored locally
                            self._take(found, answer[0]["batch"], newest=run == execution.run_id)
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                break  # Temporal has forgotten that execution
            run = before
        return found

    @staticmethod
    def _take(found: _History, sent: wire.RecordInput, newest: bool) -> None:
        batch = with_facts(sent)
        for fact in batch["facts"]:
            found.facts[fact["seq"]] = fact
        found.identity = batch.get("identity") or found.identity
        if newest:
            found.last = batch

    async def _make_row(self, run_id: UUID, history: _History) -> None:
        """Make the row of a run that the database has never heard of; its plan's document is gone."""
        about, last = history.state.get("about", {}), history.last
        assert last is not None
        tenant_id = last["tenantId"]
        new = NewRun(
            run_id=run_id,
            tenant_id=tenant_id,
            plan_id=UUID(about.get("planId", str(UUID(int=0)))),
            plan_name=str(about.get("plan", "")),
            plan_version=str(about.get("planVersion", "")),
            plan_digest="",
            created_by=str(about.get("createdBy", "")),
            total_nodes=sum(last["counts"].values()),
            inputs=history.state.get("inputs", {}),
            metadata=about.get("metadata", {}),
            priority=int(about.get("priority", 0)),
        )
        async with transaction(self._engine, tenant_id) as conn:
            await create_run(conn, new)
