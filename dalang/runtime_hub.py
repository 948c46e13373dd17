"""Wayang's Runtime Hub, as its adapter speaks to it: ``/runtime-hub/execute``, ``/tasks/{id}/status`` and ``/cancel``.

Both sides of it are Dalang's: the node type ``runtime-hub`` asks a hub, and the API is one. Here is what both agree on,
and what the seeds leave open:

- A task's id is the caller's, and stands for the task: the same id again answers the same task.
- ``execute`` answers 200 with the result when the task has ended, and 202 when it has not for as long as it waits (the
  header ``Prefer: wait=SECONDS``); an unmodified Wayang reads that as a failure of type TIMEOUT, which it is to it.
- A status of a task that has ended carries the result in ``metadata.result``: the seeds' status has no other place.
- What is to be run: the descriptor's implementation, else the type that ``metadata.nodeType`` (Wayang sends it), the
  descriptor's id or its name is, else an agent with the descriptor's capabilities.

Pure.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from dalang.durations import MAX_DURATION_MS
from dalang.errors import ErrorPayload, ErrorType, SuggestedAction
from dalang.plan_implementation import CARRIED_OUT
from dalang.statuses import RunStatus

PREFIX = "/runtime-hub"
NAMESPACE = uuid.UUID("5f4b2c52-7f1b-5c55-9d1a-8c8f6f1f1c3d")
NODE = "task"
"""The nodeId of the only node of the run that a task is."""
OWN_NAME = "runtime-hub-task"
"""The type of a node whose implementation says what runs."""
DEFAULT_TASK_MS = 3_600_000
"""How long a task may take unless ``metadata.timeoutMs`` says otherwise."""
MAX_TASK_MS = 366 * 86_400_000

SUCCEEDED = frozenset({"SUCCESS", "SUCCEEDED", "COMPLETED", "DONE"})
FAILED = frozenset({"FAILED", "ERROR", "FAILURE", "CANCELLED", "CANCELED", "TIMEOUT"})
UNKNOWN = frozenset({"UNKNOWN", "NOT_FOUND"})
"""What hubs say of tasks; all else says that the task is under way."""

_DESCRIPTOR = ("id", "version", "name", "description", "inputs", "outputs", "capabilities", "implementation")
_STATUSES = {
    RunStatus.PENDING: "PENDING",
    RunStatus.VALIDATED: "PENDING",
    RunStatus.PAUSED: "PAUSED",
    RunStatus.AWAITING_HITL: "AWAITING_HITL",
    RunStatus.COMPLETED: "SUCCESS",
    RunStatus.FAILED: "FAILED",
    RunStatus.CANCELLED: "CANCELLED",
}


def task_id(key: str, number: int) -> uuid.UUID:
    """Return the id of the task for a node's idempotency key; a new ``number`` when the one before has failed."""
    return uuid.uuid5(NAMESPACE, f"{key}#{number}")


def run_id(tenant_id: str, task: uuid.UUID) -> uuid.UUID:
    """Return the id of the run that a task of a tenant is."""
    return uuid.uuid5(NAMESPACE, f"{tenant_id}/{task}")


def status_of(status: str) -> str:
    """Return what a hub says of a run's status."""
    return _STATUSES.get(RunStatus(status), "RUNNING")


def result_of(task: uuid.UUID, status: str, outputs: Any, error: Any, reason: str | None) -> dict[str, Any]:
    """Return the seeds' ``NodeExecutionResult`` of a run as it stands."""
    result: dict[str, Any] = {"taskId": str(task), "success": status == RunStatus.COMPLETED}
    if status == RunStatus.COMPLETED:
        found = outputs.get("result") if isinstance(outputs, Mapping) else None
        result["outputs"] = found if isinstance(found, dict) else {}
    elif status == RunStatus.FAILED:
        result["error"] = dict(error) if isinstance(error, Mapping) else ErrorPayload(message="the task failed").wire()
    elif status == RunStatus.CANCELLED:
        message = "the task was cancelled" + (f": {reason}" if reason else "")
        result["error"] = ErrorPayload(message=message).wire()
    else:
        message = "the task has not ended yet; its status tells when it has"
        result["error"] = ErrorPayload(type=ErrorType.TIMEOUT, message=message, retryable=True).wire()
    return result


# -- a task as a plan --------------------------------------------------------------------------------------------------


def plan_of(
    descriptor: Mapping[str, Any], inputs: Mapping[str, Any], metadata: Mapping[str, Any], types: Collection[str]
) -> dict[str, Any] | None:
    """Return the plan with the one node that a task is, or None if it does not say what is to be run.

    ``types`` are the node types there are. The values of ``inputs`` are the run's inputs, so that no text in them is
    taken for an expression, and that tasks of one kind have one plan.
    """
    what = _what(descriptor, metadata, types)
    if what is None:
        return None
    told = {name: descriptor[name] for name in _DESCRIPTOR if descriptor.get(name) is not None}
    implementation = told.get("implementation")
    if isinstance(implementation, Mapping):
        told["implementation"] = {name: one for name, one in implementation.items() if one is not None}
    limit = metadata.get("timeoutMs")
    is_limit = isinstance(limit, int) and not isinstance(limit, bool) and 0 < limit <= min(MAX_TASK_MS, MAX_DURATION_MS)
    node: dict[str, Any] = {
        "nodeId": NODE,
        **what,
        "inputs": {name: f"${{inputs[{json.dumps(name, ensure_ascii=False)}]}}" for name in inputs},
        # Whoever asks decides about another attempt: it is another task.
        "retryPolicy": {"maxAttempts": 1},
        "timeouts": {"startToCloseMs": limit if is_limit else DEFAULT_TASK_MS},
    }
    if told:
        node["descriptor"] = told
    name = str(told.get("name") or node["type"])
    node["name"] = name[:500]
    return {
        "name": f"runtime-hub {name}"[:500],
        "nodes": [node],
        "outputs": {"result": f"${{nodes.{NODE}.outputs}}"},
    }


def _what(descriptor: Mapping[str, Any], metadata: Mapping[str, Any], types: Collection[str]) -> dict[str, Any] | None:
    implementation = descriptor.get("implementation")
    if isinstance(implementation, Mapping) and implementation.get("type") in CARRIED_OUT:
        return {"type": OWN_NAME}
    names = [metadata.get("nodeType"), descriptor.get("id"), descriptor.get("name")]
    for name in names:
        if isinstance(name, str) and name in types:
            return {"type": name}
    if descriptor.get("capabilities"):
        return {"type": "agent"}
    # Not one that there is: validation says so.
    return next(({"type": name} for name in names if isinstance(name, str) and name), None)


# -- what a hub answers ------------------------------------------------------------------------------------------------


def result_in(status: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the result that comes with the status of a task that has ended, if it does."""
    metadata = status.get("metadata")
    for place in (metadata.get("result") if isinstance(metadata, Mapping) else None, status, metadata):
        if isinstance(place, Mapping) and (isinstance(place.get("outputs"), Mapping) or place.get("error")):
            return dict(place)
    return None


def error_in(result: Mapping[str, Any]) -> ErrorPayload:
    """Return the error of a result without success; what cannot be read is UNKNOWN_ERROR."""
    told = result.get("error")
    if not isinstance(told, Mapping):
        text = told if isinstance(told, str) and told else "the task failed, and the hub does not say why"
        return ErrorPayload(message=text)
    kind, action, details = told.get("type"), told.get("suggestedAction"), told.get("details")
    return ErrorPayload(
        type=ErrorType.__members__.get(str(kind), ErrorType.UNKNOWN_ERROR),
        message=str(told.get("message") or "the task failed"),
        details=dict(details) if isinstance(details, Mapping) else {},
        retryable=told.get("retryable") is True,
        suggested_action=SuggestedAction.__members__.get(str(action)),
        no_effect=told.get("noEffect") is True or None,
    )
