"""The activity ``record``, which stores transitions; and where the wrapper leaves attempts, bodies and checkpoints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from dalang import metrics
from dalang.activities.execution import Recorder
from dalang.activities.node_logs import NodeLogs
from dalang.activities.patience import beating, patiently, until_run_comes
from dalang.activities.policy import permit
from dalang.activities.secrets import Vault
from dalang.artifacts import Artifacts
from dalang.enforcement import Enforcer
from dalang.errors import NotFound
from dalang.fact_packing import with_facts
from dalang.redaction import Redaction
from dalang.signing import Keyring
from dalang.store.callbacks import Asked, create_callback, new_token
from dalang.store.checkpoints import StoredCheckpoint, Work, get_checkpoint, put_checkpoint
from dalang.store.engine import transaction
from dalang.store.nodes import record_attempt
from dalang.store.recording import MalformedBatch, NotCurrentExecution, record
from dalang.store.references import put_body
from dalang.wire import RECORD, Checkpoint, NodeTask

logger = logging.getLogger("dalang.projection")


class Projection:
    """Stores what runs report. One per worker process."""

    def __init__(
        self, engine: AsyncEngine, client: Client, keys: Keyring | None = None, redaction: Redaction | None = None
    ) -> None:
        self._engine = engine
        self._client = client
        self._keys = keys or Keyring()
        self._redaction = redaction

    @activity.defn(name=RECORD)
    async def record(self, request: Any) -> dict[str, Any]:
        """Store a batch of facts and return the head after it; repeated by Temporal until it is stored.

        Of a local activity the history keeps the answer alone, so that holds the batch too: ``dalang db reconcile``
        reads batches there.
        """
        batch = with_facts(request)
        info = activity.info()
        assert info.workflow_id is not None
        assert info.workflow_run_id is not None
        workflow_id, execution = info.workflow_id, info.workflow_run_id

        async def is_current() -> bool:
            latest = await self._client.get_workflow_handle(workflow_id).describe()
            return latest.run_id == execution

        try:
            with metrics.storing(batch["facts"], request.get("packed", batch["facts"])):
                async with contextlib.nullcontext() if info.is_local else beating():
                    head = await record(
                        self._engine,
                        batch,
                        temporal_run_id=execution,
                        workflow_id=workflow_id,
                        is_current=is_current,
                        keys=self._keys,
                        redaction=self._redaction,
                    )
        except (NotCurrentExecution, MalformedBatch, NotFound) as error:
            # Trying again cannot help: the execution was replaced, its run was deleted, or the workflow has a defect.
            raise ApplicationError(str(error), type=type(error).__name__, non_retryable=True) from error
        return {**head, "batch": request} if info.is_local else dict(head)


class StoreRecorder(Recorder):
    """Keeps failed attempts, large bodies, checkpoints and log lines in Postgres."""

    def __init__(
        self,
        engine: AsyncEngine,
        worker: str,
        public_url: str = "",
        enforcer: Enforcer | None = None,
        vault: Vault | None = None,
        artifacts: Artifacts | None = None,
        build: str = "",
        redaction: Redaction | None = None,
        logs: NodeLogs | None = None,
    ) -> None:
        super().__init__(worker, vault, artifacts, build)
        self._logs = logs
        self._engine = engine
        self._public_url = public_url
        self._redaction = redaction
        self._enforcer = enforcer
        self._later = set[asyncio.Task[bool]]()

    def close(self) -> None:
        """Give up what waits for the rows of its runs."""
        for one in self._later:
            one.cancel()

    async def permit(self, task: NodeTask, attempt: int) -> dict[str, Any] | None:
        """Ask the configured policies whether the attempt may begin."""
        return None if self._enforcer is None else await permit(self._enforcer, task, attempt)

    def listening(self, task: NodeTask, attempt: int) -> contextlib.AbstractContextManager[None]:
        """Take what is logged in the block, and in what begins there, for lines of the attempt."""
        return super().listening(task, attempt) if self._logs is None else self._logs.listening(task, attempt)

    async def failed_attempt(
        self, task: NodeTask, attempt: int, error: Mapping[str, Any], made: Mapping[str, Any]
    ) -> None:
        """Record one failed attempt; without Postgres it is only logged, since Temporal's history has it as well."""
        started, ended = activity.info().started_time, datetime.now(UTC)

        async def keep() -> bool:
            async with asyncio.timeout(5), transaction(self._engine, task["tenantId"]) as conn:
                return await record_attempt(
                    conn,
                    task["tenantId"],
                    UUID(task["runId"]),
                    task["nodeId"],
                    generation=task["generation"],
                    starts=task.get("starts", 0),
                    attempt=attempt,
                    error=error if self._redaction is None else self._redaction(error),
                    started_at=started,
                    ended_at=ended,
                    worker=self.worker,
                    made=made,
                )

        try:
            if not await keep():  # the next attempt does not wait for the first events of its run
                later = asyncio.create_task(until_run_comes(keep))
                self._later.add(later)
                later.add_done_callback(self._later.discard)
        except Exception:
            logger.warning("attempt %d of node %s could not be recorded", attempt, task["nodeId"], exc_info=True)

    async def large_body(self, tenant_id: str, encoded: bytes) -> None:
        """Keep a large value, unless it holds what is not kept: its digest stands in the events."""
        if self._redaction is not None and self._redaction.concerns(encoded):
            return
        await patiently(self._engine, tenant_id, lambda conn: put_body(conn, tenant_id, encoded))

    async def save_checkpoint(self, task: NodeTask, checkpoint: Checkpoint, encoded: bytes) -> None:
        """Keep a state, unless there is one of a newer attempt; waits for the row of its run, which may come."""
        tenant_id, work = task["tenantId"], _work(task)
        new = StoredCheckpoint(
            begun=_time(checkpoint["begun"]),
            attempt=checkpoint["attempt"],
            number=checkpoint["number"],
            saved_at=_time(checkpoint["at"]),
            size=checkpoint["size"],
            state=encoded.decode(),
        )
        await until_run_comes(
            lambda: patiently(self._engine, tenant_id, lambda conn: put_checkpoint(conn, tenant_id, work, new))
        )

    async def load_checkpoint(self, task: NodeTask) -> tuple[Checkpoint, bytes] | None:
        """Return the state that is kept for the node in this iteration and generation."""
        tenant_id, work = task["tenantId"], _work(task)
        found = await patiently(self._engine, tenant_id, lambda conn: get_checkpoint(conn, tenant_id, work))
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
        await patiently(
            self._engine, asked.tenant_id, lambda conn: create_callback(conn, asked, token), run_may_come=True
        )
        return f"{self._public_url}/orchestrator/callbacks/{token}"


def _work(task: NodeTask) -> Work:
    return Work(UUID(task["runId"]), task["nodeId"], task.get("iteration", 0), task["generation"])


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
