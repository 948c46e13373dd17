"""From a step to an activity or a timer, and from how that ended to an event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeGuard

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    RetryState,
    TimeoutError,
    TimeoutType,
)

with workflow.unsafe.imports_passed_through():
    from dalang.canonical import MAX_INTEGER
    from dalang.dataflow import validation_error
    from dalang.errors import ErrorPayload, ErrorType
    from dalang.events import (
        Event,
        NodeDeferred,
        NodeFailed,
        NodeStopped,
        NodeSucceeded,
        Start,
        Undo,
        UndoFailed,
        UndoSucceeded,
    )
    from dalang.made import made_notes
    from dalang.node_task import node_task, take_fields
    from dalang.program import Program
    from dalang.retries import server_delay_ms
    from dalang.usage import usage_of
    from dalang.wire import DEFERRED, Checkpoint, NodeTask, activity_id, is_checkpoint
    from dalang.workflows.elsewhere import work_elsewhere
    from dalang.workflows.questions import person_asked

GRACE = timedelta(minutes=15)
"""How much longer than the handler Temporal waits. The wrapper stops a handler in its time and says so, and a worker
that is gone is noticed by its heartbeat; but what a handler returned may have to wait for Postgres: no failed attempt.
"""

BASE_TASK_SECONDS, NODES_PER_SECOND, MAX_TASK_SECONDS = 5, 1_000, 60
WORKER_SHUTDOWN = "WorkerShutdown"
"""Type of the SDK's error for an activity that had not ended when its worker's time to drain was up."""
TIMEOUT_CAUSES = ["TemporalTimeout:StartToClose", "TemporalTimeout:Heartbeat"]


def retry_policy(retry: Mapping[str, Any], first: int = 1) -> RetryPolicy:
    """Return Temporal's retry policy for one of the program's. Temporal has only a deny-list (DESIGN section 4).

    ``first`` is the number of the activity's first attempt: those before it are made already.
    """
    return RetryPolicy(
        initial_interval=timedelta(milliseconds=max(server_delay_ms(retry, first), 1)),
        backoff_coefficient=retry["multiplier"] if retry["strategy"] == "EXPONENTIAL" else 1.0,
        maximum_interval=timedelta(milliseconds=max(retry["maxDelay"], retry["delay"], 1)),
        maximum_attempts=max(retry["attempts"] - first + 1, 1),
        non_retryable_error_types=None if "TIMEOUT" in retry["retryOn"] else TIMEOUT_CAUSES,
    )


_ONCE = RetryPolicy(maximum_attempts=1)


def _deferral(node_id: str, cause: BaseException | None) -> NodeDeferred | None:
    """Return the event for an attempt that its worker did not begin (an open circuit breaker), or None."""
    if not isinstance(cause, ApplicationError) or cause.type != DEFERRED or not cause.details:
        return None
    details = cause.details[0]
    if not isinstance(details, dict) or not _is_count(details.get("until")):
        return None
    short, attempts = details.get("short"), details.get("attempts")
    return NodeDeferred(
        node_id,
        details["until"],
        str(details.get("reason", ""))[:500],
        tuple(str(one)[:500] for one in short[:20]) if isinstance(short, list) else (),
        attempts if _is_count(attempts) else 0,
        _left(cause),
        usage_notes(_used(cause)),
    )


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_INTEGER


def temporal_priority(priority: int, tenant_id: str) -> Priority:
    """Return Temporal's priority, 1 to 5 with 1 first, and the tenant as fairness key."""
    return Priority(priority_key=min(max(3 - priority, 1), 5), fairness_key=tenant_id[:64])


def task_timeout(nodes: int) -> timedelta:
    """Return how long a workflow task of a run with so many nodes may take.

    It replays the run, so a large plan needs longer; a short time lets another worker soon take over a task that a dead
    one held. A plan of 60,000 nodes and more gets the most that is given.
    """
    return timedelta(seconds=min(BASE_TASK_SECONDS + nodes // NODES_PER_SECOND, MAX_TASK_SECONDS))


class Dispatcher:
    """Begins what is due for one run. ``key_root`` begins the idempotency keys of its nodes; default: the run's id."""

    def __init__(
        self, program: Program, run_id: str, tenant_id: str, about: Mapping[str, Any], key_root: str | None = None
    ) -> None:
        self._program = program
        self._run_id = run_id
        self._key_root = key_root or run_id
        self._tenant_id = tenant_id
        self._about = dict(about)
        self._retries = [retry_policy(retry) for retry in program.retries]

    def begin(self, step: Start) -> asyncio.Task[Any]:
        """Begin an activity and return its handle."""
        node = self._program.nodes[step.node]
        start_to_close, schedule_to_close, heartbeat = node["timeouts"]
        task = node_task(self._program, step, self._run_id, self._tenant_id, self._about, self._key_root)
        summary = node.get("name", step.node_id)[:200]
        priority = temporal_priority(self._program.node_priority(step.node), self._tenant_id)
        route = step.route or {}
        if "taskQueue" in route:
            timeouts = (start_to_close, schedule_to_close, heartbeat)
            return asyncio.create_task(work_elsewhere(task, route, timeouts, summary, priority))
        return workflow.start_activity(
            route.get("activity", step.type),
            task,
            activity_id=activity_id(step.node_id),
            result_type=dict,
            start_to_close_timeout=timedelta(milliseconds=start_to_close) + GRACE,
            schedule_to_close_timeout=None if schedule_to_close is None else timedelta(milliseconds=schedule_to_close),
            heartbeat_timeout=timedelta(milliseconds=heartbeat),
            # With a lease it is one attempt: between attempts others have it, so the state machine repeats.
            retry_policy=self._retry_policy(step, node["retry"]),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            # It is one more payload, half as dear as the task's; without a name it would tell the activity's id again.
            summary=summary if "name" in node else None,
            priority=priority,
        )

    def _retry_policy(self, step: Start, number: int) -> RetryPolicy:
        if step.lease is not None:
            return _ONCE
        if step.attempt > 1:
            return retry_policy(self._program.retries[number], step.attempt)
        return self._retries[number]

    def begin_undo(self, step: Undo) -> asyncio.Task[Any]:
        """Begin the activity of a compensation and return its handle. Nothing of ours ever cancels it."""
        node = self._program.nodes[step.node]
        compensation = step.compensation
        start_to_close, schedule_to_close, heartbeat = compensation["timeouts"]
        key: str = step.undoes["key"]
        task: NodeTask = {
            "runId": self._run_id,
            "tenantId": self._tenant_id,
            "nodeId": step.node_id,
            "type": compensation["type"],
            "inputs": dict(step.inputs),
            "key": f"{key}:undo",
            "generation": step.generation,
            "startToCloseMs": start_to_close,
            "retry": compensation["retry"],
            "run": self._about,
            "undoable": True,
            "undoes": {
                "key": key,
                "status": step.undoes["status"],
                "inputs": dict(step.undoes["inputs"]),
                "outputs": dict(step.undoes["outputs"]),
                "error": dict(step.undoes["error"]),
            },
        }
        take_fields(task, node, ("name", "metadata"))
        take_fields(task, compensation, ("handler", "capabilities", "secrets"))
        return workflow.start_activity(
            task["type"],
            task,
            activity_id=f"{step.node_id}:undo:{step.generation}",
            result_type=dict,
            start_to_close_timeout=timedelta(milliseconds=start_to_close) + GRACE,
            schedule_to_close_timeout=None if schedule_to_close is None else timedelta(milliseconds=schedule_to_close),
            heartbeat_timeout=timedelta(milliseconds=heartbeat),
            retry_policy=retry_policy(compensation["retry"]),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"undo {node.get('name', step.node_id)}"[:200],
            priority=temporal_priority(self._program.node_priority(step.node), self._tenant_id),
        )

    def invalid(self, step: Start, message: str) -> Event:
        """Return the failure of a node whose inputs are of no use."""
        return NodeFailed(step.node_id, validation_error(message, {}, step.node_id))

    def failure(self, step: Start, error: BaseException, stopping: bool, interrupted: bool = False) -> Event:
        """Return what the end of an activity or timer by ``error`` means; ``stopping`` says that we asked for it.

        An attempt that failed while it was ``interrupted`` is not the node's end if only that kept Temporal from
        repeating it.
        """
        cause = _cause(error)
        asked = person_asked(step.node_id, cause, _left(cause), usage_notes(_used(cause)))
        no_attempt = asked or _deferral(step.node_id, cause)
        if no_attempt is not None:
            return no_attempt
        if stopping and isinstance(cause, (CancelledError, asyncio.CancelledError)):
            return NodeStopped(step.node_id)
        # By its id: a revision of the plan may have given the node another number since it was begun.
        node = self._program.nodes[self._program.index[step.node_id]]
        attempts = self._program.retries[node["retry"]]["attempts"]
        payload, lost = self._payload(step.node_id, attempts, cause)
        cut_short = isinstance(error, ActivityError) and error.retry_state is RetryState.CANCEL_REQUESTED
        notes = _policy_notes(payload.get("details")) if payload.get("type") == ErrorType.POLICY_VIOLATION else {}
        notes.update(usage_notes(_used(cause)))
        return NodeFailed(
            step.node_id, payload, notes, lost=lost, checkpoint=_left(cause), cut_short=interrupted and cut_short
        )

    def undo_failure(self, step: Undo, error: BaseException) -> Event:
        """Return what the end of a compensation's activity by ``error`` means."""
        attempts = step.compensation["retry"]["attempts"]
        payload, _ = self._payload(step.node_id, attempts, _cause(error))
        notes = {**_undo_attempt(payload.get("attempt")), **usage_notes(_used(_cause(error)))}
        return UndoFailed(step.node_id, payload, notes)

    def _payload(self, node_id: str, attempts: int, cause: BaseException | None) -> tuple[dict[str, Any], bool]:
        """Return the ErrorPayload for what ended an activity, and whether its handler may still be at work."""
        if isinstance(cause, (CancelledError, asyncio.CancelledError)):
            message = "the activity was cancelled from outside of the run"
            return self._error(node_id, attempts, ErrorType.UNKNOWN_ERROR, message), True
        if isinstance(cause, ApplicationError):
            payload = cause.details[0] if cause.details else None
            if isinstance(payload, dict) and payload.get("type") in ErrorType.__members__:
                details = payload.get("details")
                return payload, isinstance(details, dict) and details.get("agentLost") is True
            if (
                cause.type == WORKER_SHUTDOWN
            ):  # as one that was killed; where Temporal repeats attempts none is the last
                return self._error(node_id, attempts, ErrorType.TIMEOUT, cause.message, {}, True), True
            kind = ErrorType.__members__.get(cause.type or "", ErrorType.UNKNOWN_ERROR)
            return self._error(node_id, attempts, kind, cause.message), False
        if isinstance(cause, TimeoutError):
            details = {"timeout": _timeout_name(cause)}
            error = self._error(node_id, attempts, ErrorType.TIMEOUT, _timeout_text(cause), details, True)
            return error, cause.type in (TimeoutType.HEARTBEAT, TimeoutType.SCHEDULE_TO_CLOSE)
        message = f"{type(cause).__name__}: {cause}"[:2000]
        return self._error(node_id, attempts, ErrorType.UNKNOWN_ERROR, message), False

    def _error(
        self,
        node_id: str,
        attempts: int,
        kind: ErrorType,
        message: str,
        details: dict[str, Any] | None = None,
        retryable: bool = False,
    ) -> dict[str, Any]:
        return ErrorPayload(
            type=kind,
            message=message,
            details=details or {},
            retryable=retryable,
            origin_node=node_id,
            origin_run_id=self._run_id,
            attempt=attempts if retryable else 0,
            max_attempts=attempts,
            timestamp=workflow.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        ).wire()


def _cause(error: BaseException) -> BaseException | None:
    return error.cause if isinstance(error, ActivityError) else error


def _undo_attempt(attempt: Any) -> dict[str, Any]:
    return {"undoAttempt": attempt} if isinstance(attempt, int) and not isinstance(attempt, bool) else {}


def _used(cause: BaseException | None) -> Any:
    """Return what an activity that failed told of its use: in its third detail, or in its last heartbeat."""
    if isinstance(cause, ApplicationError):
        return cause.details[2] if len(cause.details) > 2 else None
    beats = cause.last_heartbeat_details if isinstance(cause, TimeoutError) else ()
    return beats[0].get("usage") if beats and isinstance(beats[0], dict) else None


def usage_notes(told: Any) -> dict[str, Any]:
    """Return what an event tells of what was used."""
    found = usage_of(told)
    return {"usage": found} if found else {}


def _policy_notes(decision: Any) -> dict[str, Any]:
    """Return what an event tells of a policy's decision, which a result or an error brought."""
    if not isinstance(decision, Mapping) or not isinstance(decision.get("rule"), str):
        return {}
    told = {"effect": str(decision.get("effect"))[:20], "rule": decision["rule"][:500]}
    return {"policy": {**told, "away": True} if decision.get("away") is True else told}


def undone(step: Undo, result: Any) -> Event:
    """Return what the result of a compensation's activity means; it ended well, whatever a worker makes of it."""
    answer = result if isinstance(result, dict) else {}
    outputs = answer.get("outputs")
    notes = {"worker": answer["worker"]} if isinstance(answer.get("worker"), str) else {}
    notes.update(made_notes(answer.get("made")))
    notes.update(_undo_attempt(answer.get("attempt")))
    notes.update(usage_notes(answer.get("usage")))
    return UndoSucceeded(step.node_id, outputs if isinstance(outputs, dict) else {}, notes)


def _left(cause: BaseException | None) -> Checkpoint | None:
    """Return the checkpoint that came with a failure: as its second detail, or as that of the last heartbeat."""
    details: Sequence[Any] = ()
    if isinstance(cause, ApplicationError):
        details = cause.details
    elif isinstance(cause, TimeoutError):
        details = cause.last_heartbeat_details
    return details[1] if len(details) > 1 and is_checkpoint(details[1]) else None


def stopped(step: Start, result: Any, stopping: bool) -> NodeStopped | None:
    """Return what the result of an attempt means that was cancelled and told what it left; None: it is no such."""
    if not stopping or not isinstance(result, dict) or result.get("stopped") is not True:
        return None
    checkpoint, until = result.get("checkpoint"), result.get("until")
    return NodeStopped(
        step.node_id,
        usage_notes(result.get("usage")),
        checkpoint=checkpoint if is_checkpoint(checkpoint) else None,
        until=until if type(until) is int and 0 <= until <= MAX_INTEGER else None,
    )


def success(node_id: str, result: Any) -> NodeSucceeded | NodeFailed:
    """Return what an activity's result means; a worker in another language may have sent anything."""
    outputs = result.get("outputs") if isinstance(result, dict) else None
    if not isinstance(outputs, dict):
        message = "the worker answered without an object 'outputs'"
        return NodeFailed(node_id, validation_error(message, {}, node_id))
    attempt = result.get("attempt", 1)
    notes: dict[str, Any] = {"worker": result["worker"]} if isinstance(result.get("worker"), str) else {}
    notes.update(made_notes(result.get("made")))
    notes.update(_policy_notes(result.get("policy")))
    notes.update(usage_notes(result.get("usage")))
    return NodeSucceeded(node_id, outputs, attempt if isinstance(attempt, int) else 1, notes)


def _timeout_name(cause: TimeoutError) -> str:
    return cause.type.name if cause.type is not None else "UNKNOWN"


def _timeout_text(cause: TimeoutError) -> str:
    return {
        TimeoutType.START_TO_CLOSE: "an attempt did not end in its time, and its worker did not say so",
        TimeoutType.SCHEDULE_TO_CLOSE: "all attempts together did not end in their time (scheduleToClose)",
        TimeoutType.SCHEDULE_TO_START: "no worker took the node in time",
        TimeoutType.HEARTBEAT: "its worker stopped answering: the process was killed, or the handler blocked it",
    }.get(cause.type or TimeoutType.START_TO_CLOSE, "timed out")
