"""What only Temporal knows of a run: attempts of activities that are pending, and how the last one failed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from dalang.api.node_schemas import CheckpointItem, LiveAttempt
from dalang.api.services import Services
from dalang.errors import ErrorPayload, ErrorType, Unavailable
from dalang.store.runs import RunSummary
from dalang.wire import RECORD, Checkpoint, is_checkpoint, node_of_activity

logger = logging.getLogger("dalang.api")

LIVE_SECONDS = 2.0
"""An answer without live attempts is better than a late one."""


async def live_attempts(run: RunSummary, it: Services) -> Mapping[str, LiveAttempt]:
    """Return what Temporal knows of the run's pending activities, by node id; nothing while it does not answer."""
    if run.completed_at is not None or run.workflow_id is None or run.temporal_run_id is None:
        return {}
    try:
        async with asyncio.timeout(LIVE_SECONDS):
            client = await it.temporal.client()
            described = await client.get_workflow_handle(run.workflow_id).describe()
            pending = described.raw_description.pending_activities
            return {
                node_of_activity(one.activity_id): await _attempt(client, one)
                for one in pending
                if one.activity_type.name != RECORD
            }
    except (RPCError, Unavailable, TimeoutError) as error:
        logger.info("no live attempts of run %s: %s", run.run_id, error)
        return {}


def is_retrying(live: LiveAttempt | None) -> bool:
    """Tell whether an attempt has failed and the next one is made or waited for."""
    return live is not None and live.attempt > 1


async def _attempt(client: Client, one: PendingActivityInfo) -> LiveAttempt:
    state = PendingActivityState.Name(one.state).removeprefix("PENDING_ACTIVITY_STATE_")
    scheduled = one.next_attempt_schedule_time if one.HasField("next_attempt_schedule_time") else one.scheduled_time
    progress, checkpoint = await _told(client, one)
    return LiveAttempt(
        attempt=one.attempt,
        state=state,
        last_failure=await _failure(client, one) if one.HasField("last_failure") else None,
        next_attempt_at=scheduled.ToDatetime(UTC) if state == "SCHEDULED" and scheduled.seconds else None,
        worker=one.last_worker_identity or None,
        progress=progress,
        checkpoint=checkpoint,
    )


async def _failure(client: Client, one: PendingActivityInfo) -> dict[str, Any]:
    """Return the ErrorPayload that the worker sent, or one made of what Temporal says."""
    try:
        failure = await client.data_converter.decode_failure(one.last_failure)
    except Exception:
        failure = None
    if isinstance(failure, ApplicationError) and failure.details and isinstance(failure.details[0], dict):
        return dict(failure.details[0])
    kind = ErrorType.TIMEOUT if one.last_failure.HasField("timeout_failure_info") else ErrorType.UNKNOWN_ERROR
    return ErrorPayload(type=kind, message=one.last_failure.message, retryable=True).wire()


async def _told(client: Client, one: PendingActivityInfo) -> tuple[Any, CheckpointItem | None]:
    """Return what the last heartbeat carried: progress, and what is known of the checkpoint."""
    if not one.HasField("heartbeat_details") or not one.heartbeat_details.payloads:
        return None, None
    try:
        found = await client.data_converter.decode(one.heartbeat_details.payloads)
    except Exception:  # another language's worker may send anything
        return None, None
    progress = found[0] if found and found[0] and isinstance(found[0], (dict, str, int, float)) else None
    return progress, checkpoint_item(found[1]) if len(found) > 1 and is_checkpoint(found[1]) else None


def checkpoint_item(checkpoint: Checkpoint) -> CheckpointItem:
    """Return what people see of a checkpoint."""
    saved_at = datetime.fromtimestamp(checkpoint["at"] / 1000, UTC)
    return CheckpointItem(attempt=checkpoint["attempt"], saved_at=saved_at, size=checkpoint["size"])
