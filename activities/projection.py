"""The activity ``record``, which stores transitions; and where the wrapper leaves attempts, bodies and checkpoints."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from dalang.activities.execution import Recorder
from dalang.activities.policy import permit
from dalang.enforcement import Enforcer
from dalang.errors import NotFound
from dalang.store.callbacks import Asked, create_callback, new_token
from dalang.store.checkpoints import StoredCheckpoint, Work, get_checkpoint, put_checkpoint
from dalang.store.engine import is_connection_error, sql_state, transaction
from dalang.store.nodes import record_attempt
from dalang.store.recording import MalformedBatch, NotCurrentExecution, record
from dalang.store.references import put_body
from dalang.wire import RECORD, Checkpoint, NodeTask, RecordInput

logger = logging.getLogger("dalang.projection")

BEAT_SECONDS = 1.5
AWAY_SECONDS = 1.0
"""Pause before a large body, or a checkpoint, is stored again while Postgres is away."""
_FOREIGN_KEY = "23503"
T = TypeVar("T")


@asynccontextmanager
async def beating() -> AsyncIterator[None]:
    """Tell Temporal that this worker is alive; without it a killed one is noticed only at the end of the activity."""
    alive = asyncio.create_task(_beat())
    try:
        yield
    finally:
        alive.cancel()


async def _beat() -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        activity.heartbeat()


class Projection:
    """Stores what runs report. One per worker process."""

    def __init__(self, engine: AsyncEngine, client: Client) -> None:
        self._engine = engine
        self._client = client

    @activity.defn(name=RECORD)
    async def record(self, request: Any) -> dict[str, Any]:
        """Store a batch of facts and return the head after it; repeated by Temporal until it is stored."""
        batch: RecordInput = request
        info = activity.info()
        assert info.workflow_id is not None
        assert info.workflow_run_id is not None
        workflow_id, execution = info.workflow_id, info.workflow_run_id

        async def is_current() -> bool:
            latest = await self._client.get_workflow_handle(workflow_id).describe()
            return latest.run_id == execution

        try:
            async with beating():
                head = await record(
                    self._engine, batch, temporal_run_id=execution, workflow_id=workflow_id, is_current=is_current
                )
        except (NotCurrentExecution, MalformedBatch, NotFound) as error:
            # Trying again cannot help: the execution was replaced, its run was deleted, or the workflow has a defect.
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error
        return dict(head)


class StoreRecorder(Recorder):
    """Keeps failed attempts, large bodies and checkpoints in Postgres."""

    def __init__(
        self, engine: AsyncEngine, worker: str, public_url: str = "", enforcer: Enforcer | None = None
    ) -> None:
        super().__init__(worker)
        self._engine = engine
        self._public_url = public_url
        self._enforcer = enforcer

    async def permit(self, task: NodeTask, attempt: int) -> dict[str, Any] | None:
        """Ask the configured policies whether the attempt may begin."""
        return None if self._enforcer is None else await permit(self._enforcer, task, attempt)

    async def failed_attempt(self, task: NodeTask, attempt: int, error: Mapping[str, Any]) -> None:
        """Record one failed attempt; without Postgres it is only logged, since Temporal's history has it as well."""
        try:
            async with asyncio.timeout(5), transaction(self._engine, task["tenantId"]) as conn:
                await record_attempt(
                    conn,
                    task["tenantId"],
                    UUID(task["runId"]),
                    task["nodeId"],
                    generation=task["generation"],
                    starts=task.get("starts", 0),
                    attempt=attempt,
                    error=error,
                    started_at=activity.info().started_time,
                    ended_at=datetime.now(UTC),
                    worker=self.worker,
                )
        except Exception:
            logger.warning("attempt %d of node %s could not be recorded", attempt, task["nodeId"], exc_info=True)

    async def large_body(self, tenant_id: str, encoded: bytes) -> None:
        """Keep a large value."""
        await self._patiently(tenant_id, lambda conn: put_body(conn, tenant_id, encoded))

    async def save_checkpoint(self, task: NodeTask, checkpoint: Checkpoint, encoded: bytes) -> None:
        """Keep a state, unless there is one of a newer attempt."""
        tenant_id, work = task["tenantId"], _work(task)
        new = StoredCheckpoint(
            begun=_time(checkpoint["begun"]),
            attempt=checkpoint["attempt"],
            number=checkpoint["number"],
            saved_at=_time(checkpoint["at"]),
            size=checkpoint["size"],
            state=encoded.decode(),
        )
        await self._patiently(tenant_id, lambda conn: put_checkpoint(conn, tenant_id, work, new))

    async def load_checkpoint(self, task: NodeTask) -> tuple[Checkpoint, bytes] | None:
        """Return the state that is kept for the node in this iteration and generation."""
        tenant_id, work = task["tenantId"], _work(task)
        found = await self._patiently(tenant_id, lambda conn: get_checkpoint(conn, tenant_id, work))
        if found is None:
            return None
        record: Checkpoint = {
            "begun": _milliseconds(found.begun),
            "attempt": found.attempt,
            "number": found.number,
            "at": _milliseconds(found.saved_at),
            "size": found.size,
        }
        return record, found.state.encode()

    async def callback_url(self, task: NodeTask, attempt: int) -> str:
        """Make the address at which this attempt's answer is taken, before anybody can be told of it."""
        asked = Asked(task["tenantId"], UUID(task["runId"]), task["nodeId"], task["generation"], attempt)
        token = new_token()
        while True:
            try:
                await self._patiently(asked.tenant_id, lambda conn: create_callback(conn, asked, token))
                return f"{self._public_url}/orchestrator/callbacks/{token}"
            except IntegrityError as error:
                if sql_state(error.orig or error) != _FOREIGN_KEY:
                    raise
                await asyncio.sleep(AWAY_SECONDS)  # the row of a run that another run made comes with its first events

    async def _patiently(self, tenant_id: str, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run ``query`` in a transaction, waiting while Postgres is away: that is no failure of the node."""
        while True:
            try:
                async with transaction(self._engine, tenant_id) as conn:
                    return await query(conn)
            except Exception as error:
                if not is_connection_error(error):
                    raise
                await asyncio.sleep(AWAY_SECONDS)


def _work(task: NodeTask) -> Work:
    return Work(UUID(task["runId"]), task["nodeId"], task.get("iteration", 0), task["generation"])


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
