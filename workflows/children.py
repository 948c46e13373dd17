"""Runs below nodes: ``plan``, ``map`` and ``loop`` are child workflows of the same type, started and told from here.

A child is a run like any other, with its own facts, controls and undo. What is asked of the parent reaches it as a
signal: a pause, a resume, a cancel with its reason; a child that is told to end is waited for. A parent that is
terminated tells nobody anything: its children are then asked by Temporal to end in order (REQUEST_CANCEL), so that none
goes on unseen and each undoes what it did.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import (
    RetryPolicy,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    FailureError,
    TerminatedError,
    WorkflowAlreadyStartedError,
)

with workflow.unsafe.imports_passed_through():
    from dalang import wire
    from dalang.authority import PARENT_RUN
    from dalang.errors import ErrorPayload, ErrorType
    from dalang.events import Event, NodeFailed, NodeStopped, NodeSucceeded, Start, Undo, UndoFailed, UndoSucceeded
    from dalang.interrupting import PauseMode
    from dalang.nesting import undo_run_id
    from dalang.plan_undo import Compensate
    from dalang.program import Program
    from dalang.run import Run
    from dalang.statuses import RunStatus
    from dalang.usage import usage_of
    from dalang.workflows.dispatch import task_timeout, temporal_priority


_STATUS = SearchAttributeKey.for_keyword("DalangRunStatus")
_PLAN = SearchAttributeKey.for_keyword("DalangPlan")
_PLAN_VERSION = SearchAttributeKey.for_keyword("DalangPlanVersion")
_TENANT = SearchAttributeKey.for_keyword("DalangTenant")
_PRIORITY = SearchAttributeKey.for_int("DalangPriority")


class Children:
    """The children of one run that are under way."""

    def __init__(self, run: Run, state: Mapping[str, Any]) -> None:
        self._run = run
        self._state = state
        self._run_id: str = state["runId"]
        self._handles: dict[str, workflow.ChildWorkflowHandle[Any, Any]] = {}
        self._status, self._mode = run.status, run.pause_mode
        self._told: set[asyncio.Task[None]] = set()

    @property
    def _program(self) -> Program:
        """The program as it is now; nodes are found in it by their ids, since a revision numbers them anew."""
        return self._run.program

    def _number(self, step: Start) -> int:
        return self._program.index[step.node_id]

    def begin(self, step: Start) -> asyncio.Task[Any]:
        """Start the run below a node and return what ends with it."""
        return asyncio.create_task(self._through(step))

    def stop(self, node_id: str) -> None:
        """Tell a child to end; one that is only being started is told as soon as it is there."""
        handle = self._handles.get(node_id)
        if handle is not None:
            self._tell(handle, wire.SIGNAL_CANCEL)

    def follow(self) -> None:
        """Let a pause of the run, and its end, reach every child; a cancel reaches each as the stop of its node."""
        before, self._status = self._status, self._run.status
        mode, self._mode = self._mode, self._run.pause_mode
        interrupts = self._mode is PauseMode.INTERRUPT and mode is not self._mode
        if self._status is before and not interrupts:
            return
        if self._status is RunStatus.PAUSED:
            signal = wire.SIGNAL_PAUSE
        elif before is RunStatus.PAUSED and self._status is RunStatus.RUNNING and self._run.ending is None:
            signal = wire.SIGNAL_RESUME
        else:
            return
        for handle in self._handles.values():
            self._tell(handle, signal)

    async def _through(self, step: Start) -> Any:
        handle = await self._start(step)
        self._handles[step.node_id] = handle
        if self._run.ending is not None and self._number(step) < self._program.first_finally:
            self._tell(handle, wire.SIGNAL_CANCEL)
        elif self._run.status is RunStatus.PAUSED:
            self._tell(handle, wire.SIGNAL_PAUSE)
        try:
            return await handle
        finally:
            del self._handles[step.node_id]

    def _tell(self, handle: workflow.ChildWorkflowHandle[Any, Any], signal: str) -> None:
        task = asyncio.create_task(self._signal(handle, signal))
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    async def _signal(self, handle: workflow.ChildWorkflowHandle[Any, Any], signal: str) -> None:
        reason = self._run.reason if self._run.ending is RunStatus.CANCELLED else None
        if signal == wire.SIGNAL_CANCEL and reason is None:
            reason = "the parent run is ending"
        interrupts = signal == wire.SIGNAL_PAUSE and self._run.pause_mode is PauseMode.INTERRUPT
        mode = {"mode": str(PauseMode.INTERRUPT)} if interrupts else {}
        with contextlib.suppress(FailureError):  # it has ended meanwhile
            await handle.signal(signal, {"operator": PARENT_RUN, "reason": reason, **mode})

    async def _start(self, step: Start) -> workflow.ChildWorkflowHandle[Any, Any]:
        document, nodes = self._document(step)
        return await self._start_run(step, document, nodes, self._child_state(step, document, nodes))

    async def _start_run(
        self, step: Start, document: Mapping[str, Any], nodes: int, state: Mapping[str, Any]
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        about = state["about"]
        return await workflow.start_child_workflow(
            wire.PLAN_RUN,
            args=[document, state],
            id=f"{wire.WORKFLOW_ID_PREFIX}{step.child}",
            result_type=dict,
            task_timeout=task_timeout(nodes),
            # After a reset of the parent the same child runs once more: a new epoch of the same run.
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            parent_close_policy=workflow.ParentClosePolicy.REQUEST_CANCEL,
            search_attributes=TypedSearchAttributes(
                [
                    SearchAttributePair(_STATUS, str(RunStatus.RUNNING)),
                    SearchAttributePair(_PLAN, about["plan"]),
                    SearchAttributePair(_PLAN_VERSION, about["planVersion"]),
                    SearchAttributePair(_TENANT, self._state["tenantId"]),
                    SearchAttributePair(_PRIORITY, document["priority"]),
                ]
            ),
            static_summary=f"{self._name(step)} of run {self._run_id}"[:200],
            priority=temporal_priority(document["priority"], self._state["tenantId"]),
        )

    def _name(self, step: Start) -> str:
        name: str = self._program.nodes[self._number(step)].get("name", step.node_id)
        return f"{name}, iteration {step.iteration}" if step.type == "loop" else name

    def _document(self, step: Start) -> tuple[dict[str, Any], int]:
        """Return the child's program, and how many nodes it has."""
        node = self._number(step)
        container = self._program.nodes[node]["container"]
        document = {**container["body"], "priority": self._program.node_priority(node)}
        if step.type != "map":
            return document, len(document["nodes"])
        count = len(step.inputs["items"])
        document |= {"repeat": count, "maxInFlight": container["maxConcurrency"], "tolerated": container["tolerated"]}
        return document, count

    def _child_state(self, step: Start, document: Mapping[str, Any], nodes: int) -> dict[str, Any]:
        parent, about = self._state, self._run.about
        key_root = parent.get("keyRoot") or self._run_id
        # Four eyes reach into the run below: who had a hand in what it is given may not approve it there.
        contributors = [name for name in self._run.contributors(self._number(step)) if name != about.get("createdBy")]
        link: wire.ChildLink = {
            "parentRunId": self._run_id,
            "parentNodeId": step.node_id,
            "topRunId": parent.get("child", {}).get("topRunId", self._run_id),
            "iteration": step.iteration,
            "generation": step.generation,
            "keyRoot": f"{key_root}/{step.node_id}:{step.iteration}:{step.generation}",
            "planDigest": self._program.nodes[self._number(step)]["container"]["digest"],
            "totalNodes": nodes,
            "elements": nodes if step.type == "map" else None,
        }
        return {
            "engine": parent["engine"],
            "runId": step.child,
            "tenantId": parent["tenantId"],
            "inputs": dict(step.inputs),
            "about": {
                **{key: value for key, value in about.items() if key != "status"},
                "id": step.child,
                "planId": document["planId"],
                "plan": document["name"],
                "planVersion": document["version"],
                "priority": document["priority"],
                "parentRunId": self._run_id,
                "topRunId": link["topRunId"],
                **({"contributors": contributors} if contributors else {}),
            },
            "maxInFlight": parent["maxInFlight"],
            "historyLimit": parent["historyLimit"],
            **{key: parent[key] for key in ("limits", "pages", "authority") if key in parent},
            "keyRoot": link["keyRoot"],
            "child": link,
        }

    # -- undoing one that has ended --------------------------------------------------------------------------------

    def begin_undo(self, step: Undo) -> asyncio.Task[Any]:
        """Undo a run below a node by another one, and return what ends with that."""
        return asyncio.create_task(self._undo(step))

    async def _undo(self, step: Undo) -> Any:
        assert step.below is not None
        kind = self._program.types[self._program.index[step.node_id]]
        undo_id = undo_run_id(step.below)
        inputs = step.undoes["inputs"]
        start = Start(step.node, step.node_id, kind, inputs, step.generation, step.iteration, undo_id)
        document, nodes = self._document(start)
        # However the run below would have ended: it was one with this run, which undoes what it did.
        document["compensate"] = Compensate.ON_CANCEL.value
        state = self._child_state(start, document, nodes)
        state["child"]["undoOf"] = step.below
        request: wire.UndoSeedInput = {
            "tenantId": self._state["tenantId"],
            "runId": step.below,
            "program": document,
            "inputs": state["inputs"],
            "about": state["about"],
        }
        state["seed"] = await workflow.execute_activity(
            wire.SEED_UNDO,
            request,
            result_type=dict,
            start_to_close_timeout=timedelta(minutes=2),
            retry_policy=RetryPolicy(maximum_interval=timedelta(seconds=10)),
            summary=f"undo {self._name(start)}"[:200],
        )
        return await (await self._start_run(start, document, nodes, state))

    def undone(self, step: Undo, task: asyncio.Task[Any]) -> Event:
        """Return what the end of such an undo means: only where nothing is left of the run below it was one."""
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            result = task.result()
            if isinstance(result, dict) and result.get("status") == RunStatus.CANCELLED and not result.get("notUndone"):
                return UndoSucceeded(step.node_id, {"runId": result.get("runId")})
            left = result.get("notUndone") if isinstance(result, dict) else None
            message = f"{left or 'some'} of the nodes of run {step.below} were not undone"
        else:
            cause = error.cause if isinstance(error, (ChildWorkflowError, ActivityError)) else error
            message = f"run {step.below} could not be undone: {cause}"[:2000]
        return UndoFailed(step.node_id, self._error(step.node_id, ErrorType.UNKNOWN_ERROR, message, step.below))

    # -- how they end ----------------------------------------------------------------------------------------------

    def ended(self, step: Start, task: asyncio.Task[Any], stopping: bool) -> Event:
        """Return what the end of a child means for its node; ``stopping`` says that we asked for it."""
        notes: dict[str, Any] = {"childRunId": step.child}
        notes |= _usage_below(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            return self._failure(step, error, stopping, notes)
        result = task.result()
        status = result.get("status") if isinstance(result, dict) else None
        if status == RunStatus.COMPLETED:
            undoable = result.get("undoable") is True
            notes |= {"undoable": True, "iteration": step.iteration} if undoable else {}
            names = result.get("contributors")
            notes |= {"contributors": names} if isinstance(names, list) else {}
            return NodeSucceeded(step.node_id, result.get("outputs") or {}, notes=notes, undoable=undoable)
        if status == RunStatus.CANCELLED:
            return self._cancelled(step, result.get("reason"), stopping, notes)
        return self._failed(step, ErrorType.UNKNOWN_ERROR, "its run ended without saying how", notes)

    def _failure(self, step: Start, error: BaseException, stopping: bool, notes: dict[str, Any]) -> Event:
        cause = error.cause if isinstance(error, ChildWorkflowError) else error
        if isinstance(cause, (CancelledError, asyncio.CancelledError)):
            return self._cancelled(step, "cancelled through Temporal", stopping, notes)
        if isinstance(cause, ApplicationError):
            detail = cause.details[0] if cause.details else None
            found = detail.get("error") if isinstance(detail, dict) else None
            if isinstance(found, dict) and found.get("type") in ErrorType.__members__:
                return NodeFailed(step.node_id, self._passed_on(step, found), notes)
            return self._failed(step, ErrorType.UNKNOWN_ERROR, cause.message, notes)
        if isinstance(cause, WorkflowAlreadyStartedError):
            return self._failed(step, ErrorType.UNKNOWN_ERROR, "a run with its id is under way already", notes)
        if isinstance(cause, TerminatedError):
            return self._failed(step, ErrorType.UNKNOWN_ERROR, "its workflow was terminated", notes)
        return self._failed(step, ErrorType.UNKNOWN_ERROR, f"{type(cause).__name__}: {cause}"[:2000], notes)

    def _cancelled(self, step: Start, reason: Any, stopping: bool, notes: dict[str, Any]) -> Event:
        if stopping:
            return NodeStopped(step.node_id, notes)
        kind = ErrorType.TIMEOUT if reason == "TIMEOUT" else ErrorType.UNKNOWN_ERROR
        return self._failed(step, kind, f"its run was cancelled: {reason or 'no reason was given'}", notes)

    def _passed_on(self, step: Start, error: dict[str, Any]) -> dict[str, Any]:
        """Return the child's error as that of the node: where it began stays, and the run below is named."""
        own = {"originRunId": step.child, **error}
        own["details"] = {**(error.get("details") or {}), "runId": step.child}
        try:
            return ErrorPayload.model_validate(own).wire()
        except ValueError:
            return error

    def _failed(self, step: Start, kind: ErrorType, message: str, notes: dict[str, Any]) -> NodeFailed:
        return NodeFailed(step.node_id, self._error(step.node_id, kind, message, step.child), notes)

    def _error(self, node_id: str, kind: ErrorType, message: str, child: str | None) -> dict[str, Any]:
        return ErrorPayload(
            type=kind,
            message=message,
            details={"runId": child},
            origin_node=node_id,
            origin_run_id=self._run_id,
            timestamp=workflow.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        ).wire()


def _usage_below(task: asyncio.Task[Any]) -> dict[str, Any]:
    """Return what an event tells of what a run below a node has used, however that ended."""
    error = None if task.cancelled() else task.exception()
    answer = None if error is not None or task.cancelled() else task.result()
    cause = error.cause if isinstance(error, ChildWorkflowError) else error
    if isinstance(cause, ApplicationError) and cause.details:
        answer = cause.details[0]
    found = usage_of(answer.get("usage"), nodes=True) if isinstance(answer, dict) else {}
    return {"usage": found} if found else {}
