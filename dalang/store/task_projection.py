"""The inbox as a fold: what one event makes of the row of a human task.

Pure, like ``projection.py``, and used like it: for new events, and after a ``workflow reset`` for what is left of the
chain. An event is about a task when its data names one (``task``) with its status (``taskStatus``), whatever its type.
It always says who has the task (``assignee``, ``group``; missing is nobody); what else is missing stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from dalang.canonical import safe_text
from dalang.statuses import TASK_ENDS, TaskStatus
from dalang.store.chain import Transition, to_time
from dalang.store.projection import Row
from dalang.wire import EventType

_STATUSES = tuple(TaskStatus)
_HOLDERS = {"assignee": "assigned_to", "group": "candidate_group"}
_TIMES = {"dueAt": "due_at", "remindAt": "remind_at", "escalateAt": "escalate_at"}
_SHOWN = ("context", "form", "error")
MAX_TITLE = 500
MAX_PRIORITY = 2**31 - 1


def task_of(event: Transition) -> UUID | None:
    """Return the id of the task that ``event`` is about, or None when it is about none."""
    task, status = event.data.get("task"), event.data.get("taskStatus")
    if event.node_id is None or status not in _STATUSES or not isinstance(task, str):
        return None
    try:
        return UUID(task)
    except ValueError:
        return None


def task_after(task: Row | None, run_id: UUID, tenant_id: str, epoch: int, event: Transition) -> Row | None:
    """Return the row of the event's task after ``event``; of an event about no task, the row as it is."""
    task_id = task_of(event)
    if task_id is None:
        return task
    row = dict(task) if task is not None else _new_task(task_id, run_id, tenant_id, event)
    _take_data(row, event.data)
    _take_body(row, event.body or {})
    if event.type == EventType.HITL_TASK_REMINDED:
        row["reminded_at"] = event.at
    elif event.type == EventType.HITL_TASK_ESCALATED:
        row.update(escalated_at=event.at, candidates=None)  # those who were named had their time
    elif event.type == EventType.HITL_TASK_VOTED:
        vote = {key: event.data[key] for key in ("operator", "action", "decisionId") if key in event.data}
        row["votes"] = [*row["votes"], {**vote, "at": event.at.isoformat()}]
    ended = row["status"] in TASK_ENDS
    row.update(
        completed_at=event.at if ended else None,
        completed_by=_text(event.data.get("completedBy", event.data.get("operator"))) if ended else None,
        decision_id=_text(event.data.get("decisionId")) if ended else None,
        updated_at=event.at,
        revision_epoch=epoch,
        revision=event.seq,
    )
    return row


def _new_task(task_id: UUID, run_id: UUID, tenant_id: str, event: Transition) -> Row:
    nothing = ("description", "assigned_to", "candidate_group", "notes", "decision", "candidates", *_SHOWN)
    times = ("reminded_at", "escalated_at", *_TIMES.values())
    return {
        "tenant_id": tenant_id,
        "task_id": task_id,
        "run_id": run_id,
        "node_id": event.node_id,
        "kind": "approval",
        "status": str(TaskStatus.PENDING),
        "title": safe_text(event.node_id or "", MAX_TITLE),  # stands for a title that was lost
        "priority": 0,
        "quorum": 1,
        "four_eyes": False,
        "digest": "",
        "actions": [],
        "excluded": [],
        "votes": [],
        "created_at": event.at,
        **dict.fromkeys((*nothing, *times)),
    }


def _take_data(row: Row, data: Mapping[str, Any]) -> None:
    row["status"] = str(data["taskStatus"])
    for key, column in _HOLDERS.items():
        row[column] = _text(data.get(key))
    for key in ("kind", "digest"):
        row[key] = _text(data.get(key)) or row[key]
    for key, column in _TIMES.items():
        if key in data:
            row[column] = _time(data[key])
    if "actions" in data:
        row["actions"] = _texts(data["actions"])
    if "candidates" in data:
        row["candidates"] = None if data["candidates"] is None else _texts(data["candidates"])
    if "fourEyes" in data:
        row["four_eyes"] = data["fourEyes"] is True
    row["priority"] = _integer(data.get("priority"), row["priority"], -MAX_PRIORITY)
    row["quorum"] = _integer(data.get("quorum"), row["quorum"], 1)


def _take_body(row: Row, body: Mapping[str, Any]) -> None:
    title = _text(body.get("title"), MAX_TITLE)
    if title:
        row["title"] = title
    if "description" in body:
        row["description"] = _text(body["description"], 100_000)
    for name in _SHOWN:
        if name in body:
            row[name] = body[name]
    if "excluded" in body:
        row["excluded"] = _texts(body["excluded"])
    decision = body.get("decision")
    if isinstance(decision, Mapping):
        row["decision"] = {key: value for key, value in decision.items() if key != "notes"}
        row["notes"] = _text(decision.get("notes"))


def _text(value: Any, limit: int = 4000) -> str | None:
    return safe_text(value, limit) if isinstance(value, str) else None


def _texts(value: Any) -> list[str]:
    return [safe_text(one) for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _integer(value: Any, otherwise: int, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        return otherwise
    return max(least, min(value, MAX_PRIORITY))


def _time(value: Any) -> datetime | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return to_time(int(value))
    except OverflowError:
        return None
