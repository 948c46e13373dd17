"""Segments of a run: one activity for connected light nodes, and what it did as one event (``segmenting.py``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import Priority, RetryPolicy

with workflow.unsafe.imports_passed_through():
    from dalang.canonical import MAX_INTEGER
    from dalang.events import NodeFailed, NodeStopped, NodeSucceeded, RunSegment, SegmentEnded, SegmentEntry
    from dalang.segment_wire import SegmentInput, unfolded
    from dalang.wire import SEGMENT
    from dalang.workflows.dispatch import GRACE, success, temporal_priority, usage_notes

_ONCE = RetryPolicy(maximum_attempts=1)
_HEARTBEAT = timedelta(seconds=10)
_SECONDS = timedelta(seconds=5)
"""How long a worker goes forward at most, and some more; then the node that it is at may take its own time."""
MAX_NODES_HERE = 32
MAX_MS_HERE = 2_000
"""A segment of so many nodes, each of which ends so soon, is worked on within the workflow task, which spares a run of
five nodes a quarter of its work, and one of a hundred hardly any. Meanwhile the run answers nobody; and a crash repeats
all that was done within the task, so it is one segment of an execution, its first."""


class Segments:
    """The segments under way of one run; ``answer`` takes what came of each."""

    def __init__(
        self,
        run_id: str,
        tenant_id: str,
        key_root: str,
        priority: int,
        answer: Callable[[SegmentEnded], None],
        *,
        here: bool,
    ) -> None:
        self._here = here
        self._worked_here = False
        self._run_id, self._tenant_id, self._key_root = run_id, tenant_id, key_root
        self._priority: Priority = temporal_priority(priority, tenant_id)
        self._answer = answer
        self._tasks: dict[int, asyncio.Task[Any]] = {}

    @property
    def within_task(self) -> bool:
        """Whether one was worked on within a workflow task, which a crash may have to do again."""
        return self._worked_here

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, step: RunSegment) -> None:
        """Begin the activity of a segment. It is made once: what a dead worker was at goes on node by node."""
        task: asyncio.Task[Any]
        request: SegmentInput = {
            "runId": self._run_id,
            "tenantId": self._tenant_id,
            "keyRoot": self._key_root,
            "part": dict(step.part),
        }
        if self._here and is_short(step):
            self._here, self._worked_here = False, True
            task = workflow.start_local_activity(
                SEGMENT,
                request,
                activity_id=f"segment:{step.number}",
                result_type=dict,
                start_to_close_timeout=_SECONDS + timedelta(milliseconds=MAX_MS_HERE) + GRACE,
                retry_policy=_ONCE,
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
        else:
            task = self._activity(step, request)
        self._tasks[step.number] = task
        task.add_done_callback(lambda done: self._ended(step.number, done))

    def _activity(self, step: RunSegment, request: SegmentInput) -> asyncio.Task[Any]:
        longest = max(kind["timeouts"][0] for kind in step.part["kinds"] if "timeouts" in kind)
        return workflow.start_activity(
            SEGMENT,
            request,
            activity_id=f"segment:{step.number}",
            result_type=dict,
            start_to_close_timeout=_SECONDS + timedelta(milliseconds=longest) + GRACE,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_ONCE,
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary=f"up to {len(step.nodes)} nodes",
            priority=self._priority,
        )

    def stop(self, number: int) -> None:
        """Let a worker begin no more nodes of a segment."""
        if number in self._tasks:
            self._tasks[number].cancel()

    def _ended(self, number: int, task: asyncio.Task[Any]) -> None:
        if self._tasks.pop(number, None) is None:
            return
        failed = task.cancelled() or task.exception() is not None
        self._answer(SegmentEnded(number, lost=True) if failed else segment_ended(number, task.result()))


def is_short(step: RunSegment) -> bool:
    """Tell whether a segment ends so soon that a workflow task may wait for it."""
    kinds = (kind for kind in step.part["kinds"] if "timeouts" in kind)
    return len(step.nodes) <= MAX_NODES_HERE and all(
        kind["type"] == "noop" or kind["timeouts"][0] <= MAX_MS_HERE for kind in kinds
    )


def segment_ended(number: int, answer: Any) -> SegmentEnded:
    """Return what the result of a segment's activity means; one that makes no sense is that of a lost segment."""
    try:
        entries = [_entry(node) for node in unfolded(answer)]
        alone = [str(one) for one in answer["alone"]]
    except (KeyError, IndexError, TypeError, ValueError):
        return SegmentEnded(number, lost=True)
    return SegmentEnded(number, entries, alone)


def _entry(node: Any) -> SegmentEntry:
    began, ended, name = node["began"], node["ended"], node["node"]
    if not (isinstance(name, str) and _is_time(began) and _is_time(ended)):
        raise ValueError("this is no node of a segment")
    return SegmentEntry(began, ended, _end(name, node))


def _end(name: str, node: Any) -> NodeSucceeded | NodeFailed | NodeStopped:
    if "result" in node:
        return success(name, node["result"])
    if "error" in node:
        return NodeFailed(name, dict(node["error"]), usage_notes(node.get("usage")))
    return NodeStopped(name)


def _is_time(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_INTEGER
