"""Ends in the read model what has ended in Temporal without a word: ``temporal workflow terminate`` tells nobody.

Only what Temporal itself says counts, and only an explicit end: a workflow that is not found may be another server's,
and after a reset the old execution reads as terminated while the latest goes on.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from dalang import wire
from dalang.errors import ErrorPayload, ErrorType, Unavailable
from dalang.launch import TemporalLink
from dalang.store.engine import is_connection_error, transaction
from dalang.store.lost_runs import OpenRun, list_open_among, mark_lost

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

    def __init__(self, link: TemporalLink, engine: AsyncEngine, namespace: str) -> None:
        self._link = link
        self._engine = engine
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
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.reap()
            except (Unavailable, RPCError) as error:
                logger.warning("looking for lost runs waits: %s", error)
            except Exception as error:
                if not is_connection_error(error):
                    logger.exception("looking for lost runs failed")

    async def _end(self, client: Client, workflow_ids: list[str]) -> int:
        if not workflow_ids:
            return 0
        async with transaction(self._engine, None) as conn:
            open_runs = await list_open_among(conn, workflow_ids)
        count = 0
        for run in open_runs:
            reason = await self._reason(client, run)
            if reason is not None:
                message = (
                    f"The workflow of the run ended in Temporal ({reason}) before the run did; nothing was undone."
                )
                error = ErrorPayload(type=ErrorType.UNKNOWN_ERROR, message=message, origin_run_id=str(run.run_id))
                async with transaction(self._engine, run.tenant_id) as conn:
                    count += await mark_lost(conn, run, error.wire(), reason)
                logger.warning("run %s was lost: %s", run.run_id, reason)
        return count

    async def _reason(self, client: Client, run: OpenRun) -> str | None:
        """Return why the run's latest execution has ended, or None when it goes on, or is not ours to judge."""
        if run.temporal_namespace not in (None, self._namespace):
            return None
        latest = await client.get_workflow_handle(run.workflow_id).describe()
        return None if latest.status is None else _ENDS.get(latest.status)


def _rfc3339(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
