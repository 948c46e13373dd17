"""Ends in the read model what has ended in Temporal without a word: ``temporal workflow terminate`` tells nobody.

Only what Temporal itself says counts, and only an explicit end: a workflow that is not found may be another server's,
and after a reset the old execution reads as terminated while the latest goes on.

What such a run did is undone by a run of its own (``undo_seeding.py``), made in the transaction that ends the old one,
so that there is exactly one, and started by this process or, if that is gone, by the reconciler.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from dalang import wire
from dalang.errors import Conflict, ErrorPayload, ErrorType, InvalidDocument, NotFound, Unavailable
from dalang.launch import Launcher, Prepared, TemporalLink
from dalang.metrics import rounds
from dalang.program import Program
from dalang.statuses import RUN_ENDS, RunStatus
from dalang.store.engine import is_connection_error, system_transaction, transaction
from dalang.store.lost_runs import OpenRun, began_to_end, list_open_among, mark_lost
from dalang.store.outcomes import current_plan_digest
from dalang.store.runs import NewRun, Run, create_run, get_run, linked_runs
from dalang.undo_seeding import NothingToUndo, undo_seed

EVERY_SECONDS = 10.0
LOOK_BACK = timedelta(hours=24)
"""Ends of so long ago are looked at after a start; later only those since the last look."""
OVERLAP = timedelta(minutes=5)
"""Temporal's list of ended workflows is late by seconds; looking twice harms nothing."""
SETTLE = timedelta(seconds=10)
"""A workflow stores its last event before it ends; one that is as fresh as this is left for the next look."""
PAGE = 500

_ENDS = {
    WorkflowExecutionStatus.TERMINATED: "TERMINATED",
    WorkflowExecutionStatus.TIMED_OUT: "TIMED_OUT",
    WorkflowExecutionStatus.FAILED: "WORKFLOW_FAILED",
}

logger = logging.getLogger("dalang.reaper")


class Reaper:
    """Looks for such runs. Several processes may do it side by side."""

    def __init__(self, link: TemporalLink, engine: AsyncEngine, launcher: Launcher, namespace: str) -> None:
        self._link = link
        self._engine = engine
        self._launcher = launcher
        self._namespace = namespace
        self._since = datetime.now(UTC) - LOOK_BACK

    async def reap(self, settle: timedelta = SETTLE) -> int:
        """Mark runs whose workflow is gone; return how many there were.

        Raises:
            Unavailable: Temporal is away.
        """
        client = await self._link.client()
        now, reaped = datetime.now(UTC), 0
        ended: list[str] = []
        query = (
            f"WorkflowType = '{wire.PLAN_RUN}' AND ExecutionStatus IN ('Terminated', 'TimedOut', 'Failed')"
            f" AND CloseTime BETWEEN '{_rfc3339(self._since)}' AND '{_rfc3339(now - settle)}'"
        )
        async for execution in client.list_workflows(query):
            ended.append(execution.id)
            if len(ended) == PAGE:
                reaped += await self._end(client, ended)
                ended = []
        reaped += await self._end(client, ended)
        self._since = now - settle - OVERLAP
        return reaped

    async def reap_for_ever(self) -> None:
        """Reap until cancelled, first after a while; what is away meanwhile is only logged."""
        turns = rounds("reaper", EVERY_SECONDS)
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.reap()
                turns.went()
            except (Unavailable, RPCError) as error:
                turns.failed(error)
                logger.warning("looking for lost runs waits: %s", error)
            except Exception as error:
                turns.failed(error)
                if not is_connection_error(error):
                    logger.exception("looking for lost runs failed")

    async def _end(self, client: Client, workflow_ids: list[str]) -> int:
        if not workflow_ids:
            return 0
        async with system_transaction(self._engine) as conn:
            open_runs = await list_open_among(conn, workflow_ids)
        count = 0
        for run in open_runs:
            execution, reason = await self._ended(client, run)
            if reason is not None:
                message = f"The workflow of the run ended in Temporal ({reason}) before the run did"
                count += await self._take_down(run, Ended(execution, RunStatus.FAILED, reason, message))
                logger.warning("run %s was lost: %s", run.run_id, reason)
        return count

    async def _ended(self, client: Client, run: OpenRun) -> tuple[str, str | None]:
        """Return the run's latest execution and why it has ended; None when it goes on, or is not ours to judge."""
        known = (run.temporal_cluster_id, self._link.cluster_id)
        if run.temporal_namespace not in (None, self._namespace) or (all(known) and known[0] != known[1]):
            return "", None
        latest = await client.get_workflow_handle(run.workflow_id).describe()
        return latest.run_id, None if latest.status is None else _ENDS.get(latest.status)

    async def terminate(self, run: Run, operator: str, reason: str | None) -> UUID | None:
        """End a run by force, as the last resort; return the run that undoes what it did, if there is one.

        Raises:
            Conflict: it has ended, or was never started.
            Unavailable: Temporal is away.
        """
        if run.status in RUN_ENDS:
            raise Conflict(f"terminate is not possible: the run is {run.status}.")
        client = await self._link.client()
        handle = client.get_workflow_handle(run.workflow)
        why = reason or "terminated"
        try:
            execution = (await handle.describe()).run_id
            await handle.terminate(reason=f"{operator}: {why}"[:1000])
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                raise Conflict(
                    "terminate is not possible: the run's workflow has ended, or was never begun."
                ) from error
            raise Unavailable("Temporal did not take the request; try again.") from error
        async with system_transaction(self._engine) as conn:
            open_runs = await list_open_among(conn, [run.workflow])
        for one in open_runs:
            await self._take_down(one, Ended(execution, RunStatus.CANCELLED, why, None))
        async with transaction(self._engine, run.tenant_id) as conn:
            return (await linked_runs(conn, run.tenant_id, run.run_id)).undone_by

    async def _take_down(self, lost: OpenRun, end: Ended) -> bool:
        """End a run whose workflow is gone, and let another one undo what it did; False when it had ended before."""
        undo = await self._undo_of(lost, end)
        error = None
        if end.message is not None:
            what = f"run {undo.new.run_id} undoes what it did" if undo else "nothing was undone"
            payload = ErrorPayload(
                type=ErrorType.UNKNOWN_ERROR, message=f"{end.message}; {what}.", origin_run_id=str(lost.run_id)
            )
            error = payload.wire()
        async with transaction(self._engine, lost.tenant_id) as conn:
            if not await mark_lost(conn, lost, error, end.reason, end.status):
                return False
            made = None if undo is None else (await create_run(conn, undo.new))[0]
        if undo is not None and made is not None:
            with suppress(Unavailable):  # the row is committed, so the reconciler starts it
                await self._launcher.start(made, undo.prepared)
        return True

    async def _undo_of(self, lost: OpenRun, end: Ended) -> _Undo | None:
        """Return the run that undoes what a lost one did; None when there is nothing, or nothing is known of it."""
        async with transaction(self._engine, lost.tenant_id) as conn:
            run = await get_run(conn, lost.tenant_id, lost.run_id)
            if run is None or run.parent_run_id is not None:
                return None  # the node it is below fails, or was cancelled by its own run
            digest = await current_plan_digest(conn, run)
            ending = await began_to_end(conn, run) or end.status
        try:
            prepared = await self._launcher.prepared_of(run.tenant_id, digest)
            program = await asyncio.to_thread(Program, prepared.program)
            if not program.compensations and program.first_finally == len(program.ids):
                return None
            new = _undo_run(run, prepared, ending, end)
            client = await self._link.client()
            about = {"id": str(new.run_id)}
            await undo_seed(self._engine, client, new, program, about, new.origin or {}, if_needed=True)
        except (NotFound, Conflict, InvalidDocument) as error:
            if not isinstance(error, NothingToUndo):
                logger.error("what run %s did cannot be undone: %s", lost.run_id, error)
            return None
        return _Undo(new, prepared)


@dataclass(frozen=True)
class Ended:
    """How a lost run ended; ``message`` None: somebody wanted it."""

    execution: str
    status: RunStatus
    reason: str
    message: str | None


@dataclass(frozen=True)
class _Undo:
    new: NewRun
    prepared: Prepared


def _undo_run(run: Run, prepared: Prepared, ending: RunStatus, end: Ended) -> NewRun:
    origin = {
        "base": str(run.run_id),
        "workflow": run.workflow,
        "execution": end.execution,
        "ending": str(ending),
        "reason": end.reason,
    }
    if ending is RunStatus.FAILED:
        message = f"{end.message or 'The run was terminated'}."
        origin["error"] = ErrorPayload(
            type=ErrorType.UNKNOWN_ERROR, message=message, origin_run_id=str(run.run_id)
        ).wire()  # type: ignore[assignment]
    return NewRun(
        tenant_id=run.tenant_id,
        plan_id=run.plan_id,
        plan_name=run.plan_name,
        plan_version=run.plan_version,
        plan_digest=prepared.digest,
        created_by=run.created_by,
        total_nodes=prepared.nodes,
        inputs=run.inputs or {},
        metadata=run.metadata,
        priority=run.priority,
        root_run_id=run.root_run_id or run.run_id,
        undo_of=run.run_id,
        origin=origin,
        workflow_id=f"{run.workflow}-undo",
        run_id=uuid5(run.run_id, "undo"),
    )


def _rfc3339(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
