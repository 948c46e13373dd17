"""From a step to an activity or a timer, and from how that ended to an event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, TimeoutError, TimeoutType

with workflow.unsafe.imports_passed_through():
    from dalang.dataflow import validation_error
    from dalang.durations import parse_duration
    from dalang.errors import ErrorPayload, ErrorType
    from dalang.events import Event, NodeFailed, NodeStopped, NodeSucceeded, Start
    from dalang.program import Program
    from dalang.wire import NodeTask

GRACE = timedelta(minutes=15)
"""How much longer than the handler Temporal waits. The wrapper stops a handler in its time and says so, and a worker
that is gone is noticed by its heartbeat; but what a handler returned may have to wait for Postgres: no failed attempt.
"""

TIMEOUT_CAUSES = ["TemporalTimeout:StartToClose", "TemporalTimeout:Heartbeat"]
MAX_SLEEP_MS = 366 * 86_400_000


def retry_policies(program: Program) -> list[RetryPolicy]:
    """Return Temporal's retry policy for each of the program's. Temporal has only a deny-list (DESIGN section 4)."""
    return [
        RetryPolicy(
            initial_interval=timedelta(milliseconds=max(retry["delay"], 1)),
            backoff_coefficient=retry["multiplier"] if retry["strategy"] == "EXPONENTIAL" else 1.0,
            maximum_interval=timedelta(milliseconds=max(retry["maxDelay"], retry["delay"], 1)),
            maximum_attempts=retry["attempts"],
            non_retryable_error_types=None if "TIMEOUT" in retry["retryOn"] else TIMEOUT_CAUSES,
        )
        for retry in program.retries
    ]


def temporal_priority(priority: int, tenant_id: str) -> Priority:
    """Return Temporal's priority, 1 to 5 with 1 first, and the tenant as fairness key."""
    return Priority(priority_key=min(max(3 - priority, 1), 5), fairness_key=tenant_id[:64])


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
        self._retries = retry_policies(program)

    def begin(self, step: Start) -> asyncio.Task[Any]:
        """Begin an activity and return its handle."""
        node = self._program.nodes[step.node]
        retry = self._program.retries[node["retry"]]
        start_to_close, schedule_to_close, heartbeat = node["timeouts"]
        return workflow.start_activity(
            step.type,
            self._task(step, node, retry, start_to_close),
            activity_id=step.node_id,
            result_type=dict,
            start_to_close_timeout=timedelta(milliseconds=start_to_close) + GRACE,
            schedule_to_close_timeout=None if schedule_to_close is None else timedelta(milliseconds=schedule_to_close),
            heartbeat_timeout=timedelta(milliseconds=heartbeat),
            retry_policy=self._retries[node["retry"]],
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=node.get("name", step.node_id)[:200],
            priority=temporal_priority(self._program.node_priority(step.node), self._tenant_id),
        )

    def _task(self, step: Start, node: dict[str, Any], retry: dict[str, Any], start_to_close: int) -> NodeTask:
        task: NodeTask = {
            "runId": self._run_id,
            "tenantId": self._tenant_id,
            "nodeId": step.node_id,
            "type": step.type,
            "inputs": dict(step.inputs),
            "key": f"{self._key_root}:{step.node_id}:0:{step.generation}",
            "generation": step.generation,
            "startToCloseMs": start_to_close,
            "retry": retry,
            "run": self._about,
        }
        if "name" in node:
            task["name"] = node["name"]
        if "handler" in node:
            task["handler"] = node["handler"]
        if "capabilities" in node:
            task["capabilities"] = node["capabilities"]
        if "metadata" in node:
            task["metadata"] = node["metadata"]
        if "implementation" in node:
            task["implementation"] = node["implementation"]
        return task

    def invalid(self, step: Start, message: str) -> Event:
        """Return the failure of a node whose inputs are of no use."""
        return NodeFailed(step.node_id, validation_error(message, {}, step.node_id))

    def failure(self, step: Start, error: BaseException, stopping: bool) -> Event:
        """Return what the end of an activity or timer by ``error`` means; ``stopping`` says that we asked for it."""
        cause = error.cause if isinstance(error, ActivityError) else error
        if isinstance(cause, (CancelledError, asyncio.CancelledError)):
            if stopping:
                return NodeStopped(step.node_id)
            return self._failed(step, ErrorType.UNKNOWN_ERROR, "the activity was cancelled from outside of the run")
        if isinstance(cause, ApplicationError):
            payload = cause.details[0] if cause.details else None
            if isinstance(payload, dict) and payload.get("type") in ErrorType.__members__:
                return NodeFailed(step.node_id, payload)
            return self._failed(
                step, ErrorType.__members__.get(cause.type or "", ErrorType.UNKNOWN_ERROR), cause.message
            )
        if isinstance(cause, TimeoutError):
            return self._failed(step, ErrorType.TIMEOUT, _timeout_text(cause), {"timeout": _timeout_name(cause)}, True)
        return self._failed(step, ErrorType.UNKNOWN_ERROR, f"{type(cause).__name__}: {cause}"[:2000])

    def _failed(
        self,
        step: Start,
        kind: ErrorType,
        message: str,
        details: dict[str, Any] | None = None,
        retryable: bool = False,
    ) -> NodeFailed:
        attempts = self._program.retries[self._program.nodes[step.node]["retry"]]["attempts"]
        payload = ErrorPayload(
            type=kind,
            message=message,
            details=details or {},
            retryable=retryable,
            origin_node=step.node_id,
            origin_run_id=self._run_id,
            attempt=attempts if retryable else 0,
            max_attempts=attempts,
            timestamp=workflow.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
        return NodeFailed(step.node_id, payload.wire())


def success(step: Start, result: Any) -> Event:
    """Return what an activity's result means; a worker in another language may have sent anything."""
    outputs = result.get("outputs") if isinstance(result, dict) else None
    if not isinstance(outputs, dict):
        message = "the worker answered without an object 'outputs'"
        return NodeFailed(step.node_id, validation_error(message, {}, step.node_id))
    attempt = result.get("attempt", 1)
    notes = {"worker": result["worker"]} if isinstance(result.get("worker"), str) else {}
    return NodeSucceeded(step.node_id, outputs, attempt if isinstance(attempt, int) else 1, notes)


def sleep_ms(inputs: Mapping[str, Any]) -> int:
    """Return how long a ``sleep`` node sleeps, from ``duration`` ("90s") or ``seconds`` (a number).

    Raises:
        ValueError: neither is usable.
    """
    if "duration" in inputs:
        ms = parse_duration(inputs["duration"])
    else:
        seconds = inputs.get("seconds")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 0:
            raise ValueError('a sleep node takes duration: "90s", or seconds: 90')
        ms = round(seconds * 1000)
    if ms > MAX_SLEEP_MS:
        raise ValueError("a sleep node sleeps at most 366 days")
    return ms


def _timeout_name(cause: TimeoutError) -> str:
    return cause.type.name if cause.type is not None else "UNKNOWN"


def _timeout_text(cause: TimeoutError) -> str:
    return {
        TimeoutType.START_TO_CLOSE: "an attempt did not end in its time, and its worker did not say so",
        TimeoutType.SCHEDULE_TO_CLOSE: "all attempts together did not end in their time (scheduleToClose)",
        TimeoutType.SCHEDULE_TO_START: "no worker took the node in time",
        TimeoutType.HEARTBEAT: "its worker stopped answering: the process was killed, or the handler blocked it",
    }.get(cause.type or TimeoutType.START_TO_CLOSE, "timed out")
