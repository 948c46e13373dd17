"""From the stored events of a run to what a stream tells an A2A client. Pure: no I/O, no clock.

Everything in an update comes from its event, or from what was stored before it, so that every stream of a task tells
the same, whenever it was opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from a2a.types import TaskArtifactUpdateEvent, TaskState, TaskStatusUpdateEvent
from google.protobuf.json_format import ParseDict

from dalang.api.a2a.tasks import STATES, agent_message, artifacts_of, instant, status_of
from dalang.statuses import RunStatus
from dalang.store.events import Event
from dalang.store.human_tasks import Task as HumanTask
from dalang.wire import EventType

Update = TaskStatusUpdateEvent | TaskArtifactUpdateEvent

_STATUSES = tuple(RunStatus)
_TOLD = {
    EventType.NODE_STARTED: "started",
    EventType.NODE_COMPLETED: "completed",
    EventType.NODE_RETRYING: "is tried again",
    EventType.NODE_ERROR: "failed, and that is handled",
    EventType.NODE_FAILED: "failed",
    EventType.NODE_WAITING: "waits",
    EventType.NODE_COMPENSATED: "is undone",
}
"""What a client hears of nodes; the rest is in the run's own stream (``/orchestrator/runs/{id}/events/stream``)."""


def asked_at(event: Event, tasks: Sequence[HumanTask]) -> list[HumanTask]:
    """Return the human tasks that were open when ``event`` happened."""
    return [
        one for one in tasks if one.created_at <= event.at and (one.completed_at is None or one.completed_at > event.at)
    ]


def updates_of(
    event: Event,
    context_id: str,
    status: RunStatus,
    *,
    tasks: Sequence[HumanTask] = (),
    auth_nodes: frozenset[str] = frozenset(),
    outputs: Any = None,
    text: str | None = None,
    modes: Sequence[str] = (),
) -> tuple[list[Update], RunStatus]:
    """Return what an event is told as, and the run's status after it.

    ``status`` is that before it; ``tasks`` are the run's human tasks, ``outputs`` and ``text`` what it ended with.
    """
    about = {"taskId": str(event.run_id), "contextId": context_id}
    metadata = {"event": event.type, "eventId": event.id}
    if event.node_id is not None:
        if event.type not in _TOLD:
            return [], status
        sentence = {"text": f"Node {event.node_id} {_TOLD[EventType(event.type)]}."}
        said = agent_message(event.run_id, context_id, event.id, [sentence])
        told = {"state": TaskState.Name(STATES[status]), "timestamp": instant(event.at), "message": said}
        return [_status({**about, "status": told, "metadata": {**metadata, "nodeId": event.node_id}})], status
    named = event.data.get("status")
    if named not in _STATUSES:
        return [], status
    now = RunStatus(named)
    questions = asked_at(event, tasks) if now == RunStatus.AWAITING_HITL else []
    document = status_of(event.run_id, context_id, now, event.at, questions=questions, auth_nodes=auth_nodes, text=text)
    found: list[Update] = []
    if now == RunStatus.COMPLETED:
        found += [
            ParseDict({**about, "artifact": one, "lastChunk": True}, TaskArtifactUpdateEvent())
            for one in artifacts_of(outputs, modes)
        ]
    return [*found, _status({**about, "status": document, "metadata": metadata})], now


def _status(document: Mapping[str, Any]) -> TaskStatusUpdateEvent:
    return ParseDict(dict(document), TaskStatusUpdateEvent())
