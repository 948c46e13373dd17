"""The read model as a fold: what one event makes of a node's row and of the run's row.

Pure: no database. ``recording.py`` folds new events into the rows it has locked; after a ``workflow reset`` it folds
what is left of the chain from the beginning, with the same functions. What an event means for a row is said by
``data.status``, not by its type, so that new types of events need nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from dalang.canonical import safe_text
from dalang.statuses import NODE_ENDS, RUN_ENDS, NodeStatus, RunStatus
from dalang.store.chain import Transition
from dalang.wire import EventType

Row = dict[str, Any]

_RUN_STATUSES = tuple(RunStatus)
_NODE_STATUSES = tuple(NodeStatus)
_BODY_PARTS = {"inputs": "input", "outputs": "output", "error": "error"}
_UNDO = ("COMPENSATING", "COMPENSATED", "COMPENSATION_FAILED")
"""Statuses of the undo: they leave alone when the work itself began and ended, and what it was given and answered."""
PART = "part"
"""In a reference that stands for a whole body: the key of the body that is meant."""


def run_before_events(inputs: Any) -> Row:
    """Return the columns of a run that events decide, as they are before the first event."""
    return {
        "status": "PENDING",
        "started_at": None,
        "completed_at": None,
        "reason": None,
        "error": None,
        "error_message": None,
        "inputs": inputs,
        "outputs": None,
    }


def run_after(run: Row, event: Transition) -> Row:
    """Return the columns of a run after ``event``; an event of a node, or without a run status, changes nothing."""
    status = event.data.get("status")
    if event.node_id is not None or status not in _RUN_STATUSES:
        return run
    parts = _body_parts(event)
    if run["inputs"] is not None:
        parts.pop("inputs", None)  # those the run was asked for with stay; the facts fill in for a row that was lost
    before = run["status"]
    run = {**run, "status": status, **parts}
    finished = status in RUN_ENDS
    reason = event.data.get("reason")
    if event.type == EventType.PLAN_REVISED:  # why the plan changed is no reason why the run stands where it does
        reason = run["reason"] if status == before else None
    if isinstance(reason, str):
        run["reason"] = safe_text(reason)
    elif not finished:
        run["reason"] = None  # of a pause that has ended; the end of a run keeps the reason it was asked for
    if status == "RUNNING" and run["started_at"] is None:
        run["started_at"] = event.at
    run["completed_at"] = event.at if finished else None
    run["error_message"] = _message(run["error"])
    return run


def settled(run: Row, status: str, at: datetime | None, *, final: bool) -> Row:
    """Return the columns with the status the workflow reported, which wins over what the facts say.

    That a run has ended is not said before its last facts are there: whoever waits for the end reads its nodes next.
    """
    if status not in _RUN_STATUSES or run["status"] == status or at is None:
        return run
    if status in RUN_ENDS and not final:
        return run
    return {**run, "status": status, "completed_at": at if status in RUN_ENDS else None}


def node_after(node: Row | None, run_id: UUID, tenant_id: str, epoch: int, event: Transition) -> Row | None:
    """Return the row of the event's node after ``event``; without a node status the row stays as it is."""
    status, data = event.data.get("status"), event.data
    if event.node_id is None or status not in _NODE_STATUSES:
        return node
    node = dict(node) if node is not None else _new_node(run_id, tenant_id, event)
    generation = _count(data.get("generation"), node["generation"])
    begins = status == "RUNNING" and (
        node["started_at"] is None or node["completed_at"] is not None or generation != node["generation"]
    )
    if begins:
        node.update(started_at=event.at, attempt=1, input_epoch=None, input_seq=None)
    if status == "RUNNING":
        for part in ("output", "error"):
            node[f"{part}_epoch"] = node[f"{part}_seq"] = None
    for part in _body_parts(event):
        node[f"{_BODY_PARTS[part]}_epoch"], node[f"{_BODY_PARTS[part]}_seq"] = epoch, event.seq
    if status in _UNDO and node["completed_at"] is not None:
        pass
    elif status in NODE_ENDS:
        node["completed_at"] = event.at
    else:
        node["completed_at"] = None
    skip_reason, metadata = data.get("skipReason"), data.get("metadata")
    node.update(
        status=status,
        generation=generation,
        attempt=_count(data.get("attempt"), node["attempt"]),
        max_attempts=_count(data.get("maxAttempts"), node["max_attempts"]),
        skip_reason=safe_text(skip_reason, 500) if isinstance(skip_reason, str) else None,
        updated_at=event.at,
        revision_epoch=epoch,
        revision=event.seq,
    )
    if isinstance(metadata, Mapping):
        node["metadata"] = dict(metadata)
    return node


def retries(node: Row | None) -> int:
    """Return how many attempts of a node were repetitions."""
    return 0 if node is None else max(0, int(node["attempt"]) - 1)


def body_part(body: Any, part: str) -> Any:
    """Return inputs, outputs or error of a stored body; of a reference to a whole body, the reference to that part."""
    if not isinstance(body, Mapping):
        return None
    return {**body, PART: part} if "$ref" in body else body.get(part)


def _new_node(run_id: UUID, tenant_id: str, event: Transition) -> Row:
    return {
        "run_id": run_id,
        "node_id": event.node_id,
        "tenant_id": tenant_id,
        "status": "PENDING",
        "attempt": 0,
        "max_attempts": 0,
        "generation": 0,
        "skip_reason": None,
        "started_at": None,
        "completed_at": None,
        "created_at": event.at,
        "updated_at": event.at,
        "revision_epoch": 0,
        "revision": 0,
        **{f"{part}_{column}": None for part in _BODY_PARTS.values() for column in ("epoch", "seq")},
        "metadata": {},
    }


def _body_parts(event: Transition) -> Row:
    """Return inputs, outputs and error of the body, as far as it has them."""
    body = event.body
    if body is None:
        return {}
    if "$ref" in body:  # the whole body is elsewhere: what it holds follows from the status
        status = event.data.get("status")
        if status in ("COMPENSATING", "COMPENSATED"):
            return {}
        part = {"RUNNING": "inputs", "SUCCESS": "outputs", "COMPLETED": "outputs"}.get(str(status), "error")
        return {part: body_part(body, part)}
    return {part: body[part] for part in _BODY_PARTS if part in body}


def _message(error: Any) -> str | None:
    message = error.get("message") if isinstance(error, Mapping) else None
    return safe_text(message) if isinstance(message, str) else None


def _count(value: Any, otherwise: int) -> int:
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return int(value) if valid else otherwise
