"""Nodes whose agent is a Temporal worker of its own, in any language: begun on its task queue (``docs/agents.md``).

Where that is comes with the grant of the lease, so it is recorded before it is acted upon. First an activity of ours
asks the policies, as the wrapper does for every other node. Then the other worker gets a NodeTask as plain JSON,
inline: what is kept outside of Temporal it could not read. Nobody checked what it answers, so that is done here.

A worker that does not take the node in time has not begun it; that is no attempt, and somebody else may be asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, TimeoutType

with workflow.unsafe.imports_passed_through():
    from dalang.canonical import compact_json, find_unsafe, safe_text
    from dalang.dataflow import validation_error
    from dalang.errors import ErrorPayload, ErrorType
    from dalang.wire import DEFERRED, PERMIT_NODE, AgentRoute, NodeTask, activity_id
    from dalang.workflows.questions import is_question

PICKUP = timedelta(seconds=60)
"""A worker that has not taken a node by then is not there; it has a place for it, or it would not have been granted."""
GRACE = timedelta(seconds=5)
PERMIT_TIME = timedelta(minutes=15)
ENVELOPE_BYTES = 1024
MAX_ANSWER_BYTES = 256 * 1024
"""What no worker of ours has seen is carried with the events of the run."""
_ONCE = RetryPolicy(maximum_attempts=1)


async def work_elsewhere(
    task: NodeTask, route: AgentRoute, timeouts: tuple[int, int | None, int], summary: str, priority: Priority
) -> dict[str, Any]:
    """Have a node done on the task queue of ``route`` and return its NodeResult; cancelled, cancel what is under way.

    Raises:
        ApplicationError: it failed, with an ErrorPayload as first detail; of type DEFERRED: it was not begun.
        ActivityError: it was cancelled, or its time was up.
    """
    result = {"attempt": task.get("attempt", 1), "worker": route["taskQueue"]}
    if task.get("memory", {}).get("session") is not None:
        raise _invalid(task, "a node with a session cannot go to an agent on a task queue of its own")
    permitted = await _permit(task, timeouts[2], summary, priority)
    if "policy" in permitted:
        result["policy"] = permitted["policy"]
    current = asyncio.current_task()
    if current is not None and current.cancelling():
        raise asyncio.CancelledError  # it came while the policies were asked, which nothing cuts short
    given = permitted["outputs"].get("memory") if isinstance(permitted.get("outputs"), dict) else None
    if given is not None:
        task = {**task, "memory": given}
    _check(task, route)
    try:
        answer = await _begin(task, route, timeouts, summary, priority)
    except ActivityError as error:
        meant = _translated(task, error.cause)
        if meant is None:
            raise
        raise meant from None
    result["outputs"] = _outputs(task, answer)
    if "usage" in answer:
        result["usage"] = answer["usage"]
    return result


def _check(task: NodeTask, route: AgentRoute) -> None:
    size, most = len(compact_json(task)), route.get("maxBytes", 64 * 1024) - ENVELOPE_BYTES
    if size > most:
        message = (
            f"agent {task.get('agent')} works on a task queue of its own, where a node gets at most {most:,} bytes; "
            f"this one would get {size:,}. Pass a reference instead of the content."
        )
        raise _invalid(task, message)
    if task.get("callback"):
        raise _invalid(task, "a node with a callback cannot go to an agent on a task queue of its own")


async def _permit(task: NodeTask, heartbeat: int, summary: str, priority: Priority) -> Mapping[str, Any]:
    permitted: dict[str, Any] = await workflow.execute_activity(
        PERMIT_NODE,
        task,
        result_type=dict,
        start_to_close_timeout=PERMIT_TIME,
        heartbeat_timeout=timedelta(milliseconds=heartbeat),
        retry_policy=_ONCE,
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=f"may {summary} begin?"[:200],
        priority=priority,
    )
    return permitted


async def _begin(
    task: NodeTask, route: AgentRoute, timeouts: tuple[int, int | None, int], summary: str, priority: Priority
) -> Any:
    start_to_close, schedule_to_close, _ = timeouts
    beats = route.get("heartbeatMs")
    # One that sends no heartbeats never hears of a cancel; it is waited for only where its effect would be undone.
    waits = beats is not None or "undoable" in task
    kinds = workflow.ActivityCancellationType
    return await workflow.execute_activity(
        route.get("activity", task["type"]),
        task,
        task_queue=route["taskQueue"],
        activity_id=activity_id(task["nodeId"]),
        result_type=dict,
        schedule_to_start_timeout=PICKUP,
        start_to_close_timeout=timedelta(milliseconds=start_to_close) + GRACE,
        schedule_to_close_timeout=None if schedule_to_close is None else timedelta(milliseconds=schedule_to_close),
        heartbeat_timeout=None if beats is None else timedelta(milliseconds=beats),
        retry_policy=_ONCE,
        cancellation_type=kinds.WAIT_CANCELLATION_COMPLETED if waits else kinds.TRY_CANCEL,
        summary=summary,
        priority=priority,
    )


def _outputs(task: NodeTask, answer: Any) -> dict[str, Any]:
    outputs = answer.get("outputs") if isinstance(answer, dict) else None
    if not isinstance(outputs, dict):
        raise _invalid(task, "the worker answered without an object 'outputs'")
    unsafe = find_unsafe(outputs)
    if unsafe is not None:
        raise _invalid(task, f"the worker answered what is not JSON: outputs{unsafe[0]} {unsafe[1]}")
    if len(compact_json(outputs)) > MAX_ANSWER_BYTES:
        message = f"an agent on a task queue of its own answers at most {MAX_ANSWER_BYTES:,} bytes; put out a reference"
        raise _invalid(task, message)
    return outputs


def _invalid(task: NodeTask, message: str) -> ApplicationError:
    payload = validation_error(message, {}, task["nodeId"])
    return ApplicationError(message, payload, type=payload["type"], non_retryable=True)


def _translated(task: NodeTask, cause: BaseException | None) -> ApplicationError | None:
    """Return what the failure of another's worker means; None: what the failure of any activity means."""
    if isinstance(cause, TimeoutError) and cause.type is TimeoutType.SCHEDULE_TO_START:
        until = int(workflow.now().timestamp() * 1000)
        reason = f"agent {task.get('agent')} did not take it"
        told = {"until": until, "reason": "agent", "short": [reason]}
        return ApplicationError(reason, told, type=DEFERRED, non_retryable=True)
    if not isinstance(cause, ApplicationError) or is_question(cause):
        return None
    payload = _payload(task, cause).wire()
    return ApplicationError(payload["message"], payload, type=payload["type"], non_retryable=True)


def _payload(task: NodeTask, cause: ApplicationError) -> ErrorPayload:
    """Return the error as the worker tells it: an ErrorPayload as first detail, or what any SDK makes of an error."""
    told = cause.details[0] if cause.details else None
    if not isinstance(told, Mapping) or find_unsafe(told) is not None:
        told = {}
    kind = ErrorType.__members__.get(str(told.get("type", cause.type)), ErrorType.UNKNOWN_ERROR)
    details = told.get("details")
    return ErrorPayload(
        type=kind,
        message=safe_text(str(told.get("message", cause.message)), 2000),
        details=dict(details) if isinstance(details, Mapping) and len(compact_json(details)) <= 16 * 1024 else {},
        retryable=told["retryable"] is True if "retryable" in told else not cause.non_retryable,
        no_effect=told.get("noEffect") is True or None,
        origin_node=task["nodeId"],
        origin_run_id=task["runId"],
        attempt=task.get("attempt", 1),
        max_attempts=task["retry"]["attempts"],
        timestamp=workflow.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    )
