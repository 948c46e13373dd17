"""What Temporal's history of an execution says about its nodes: it knows what a run that was terminated never told.

A run stores its transitions beside its nodes, so the last ones of a terminated run may be missing in the store. Its
history has them: an activity that was scheduled may have taken effect, one that completed has its result there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import Any, Literal

from temporalio.api.enums.v1 import EventType as Kind
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from dalang.errors import ErrorPayload, ErrorType
from dalang.wire import RECORD

End = Literal["completed", "failed", "cancelled", "lost"]


@dataclass(frozen=True)
class Seen:
    """One activity of a node, or of its undo: what it was given and how it ended; ``end`` None: it had not.

    ``until``: it was told to stop and did not; by then its handler's time is over.
    """

    node_id: str
    generation: int
    undoes: bool
    inputs: dict[str, Any]
    end: End | None
    outputs: dict[str, Any]
    error: dict[str, Any]
    until: int | None = None


@dataclass(frozen=True)
class LostHistory:
    """Activities in the order they were scheduled; ``closed_at`` is when the execution ended, in ms since the epoch."""

    seen: list[Seen]
    closed_at: int


_ENDS: dict[int, End] = {
    Kind.EVENT_TYPE_ACTIVITY_TASK_COMPLETED: "completed",
    Kind.EVENT_TYPE_ACTIVITY_TASK_FAILED: "failed",
    Kind.EVENT_TYPE_ACTIVITY_TASK_CANCELED: "cancelled",
    Kind.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT: "lost",
}


async def read_lost_history(client: Client, workflow_id: str, execution: str) -> LostHistory:
    """Read the history of an execution that has ended. Before a continue-as-new everything was stored."""
    scheduled: dict[int, HistoryEvent] = {}
    ends: dict[int, HistoryEvent] = {}
    last: HistoryEvent | None = None
    async for event in client.get_workflow_handle(workflow_id, run_id=execution).fetch_history_events():
        last = event
        if event.event_type == Kind.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            if event.activity_task_scheduled_event_attributes.activity_type.name != RECORD:
                scheduled[event.event_id] = event
        elif event.event_type in _ENDS:
            ends[_attributes(event).scheduled_event_id] = event
    seen = [await _seen(client, event, ends.get(number)) for number, event in scheduled.items()]
    closed_at = 0 if last is None else int(last.event_time.ToDatetime(UTC).timestamp() * 1000)
    return LostHistory([one for one in seen if one is not None], closed_at)


def _attributes(event: HistoryEvent) -> Any:
    return getattr(event, str(event.WhichOneof("attributes")))


async def _seen(client: Client, begun: HistoryEvent, ended: HistoryEvent | None) -> Seen | None:
    task = await _first(client, begun.activity_task_scheduled_event_attributes.input.payloads)
    if not (isinstance(task, dict) and "nodeId" in task and "key" in task):
        return None  # no node's: the activity of a planner, say
    outputs: dict[str, Any] = {}
    error: dict[str, Any] = {}
    until: int | None = None
    end = None if ended is None else _ENDS[ended.event_type]
    if ended is not None and end == "completed":
        result = await _first(client, ended.activity_task_completed_event_attributes.result.payloads)
        outputs = result.get("outputs", {}) if isinstance(result, dict) else {}
        if isinstance(result, dict) and result.get("stopped") is True:
            end, until = "cancelled", result.get("until")
    elif ended is not None and end in ("failed", "lost"):
        error = await _error(client, _attributes(ended).failure, lost=end == "lost")
    return Seen(task["nodeId"], task["generation"], "undoes" in task, task["inputs"], end, outputs, error, until)


async def _first(client: Client, payloads: Any) -> Any:
    found = await client.data_converter.decode(payloads)
    return found[0] if found else None


async def _error(client: Client, sent: Any, *, lost: bool) -> dict[str, Any]:
    """Return the ErrorPayload that the worker sent, or one made of what Temporal says."""
    failure = await client.data_converter.decode_failure(sent)
    if isinstance(failure, ApplicationError) and failure.details and isinstance(failure.details[0], dict):
        return dict(failure.details[0])
    kind = ErrorType.TIMEOUT if lost else ErrorType.UNKNOWN_ERROR
    return ErrorPayload(type=kind, message=sent.message or "the activity failed", retryable=lost).wire()
