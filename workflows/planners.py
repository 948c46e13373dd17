"""Asking a plan's planner for the next revision: an activity like that of a node, and what its answer means."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from dalang import wire
    from dalang.canonical import find_unsafe, safe_text
    from dalang.errors import ErrorPayload, ErrorType
    from dalang.events import MakePlan, ReplanFailed
    from dalang.run_state import PENDING
    from dalang.workflows.dispatch import GRACE, retry_policy, temporal_priority
    from dalang.workflows.replanning import RETRY, Replanning, ReplanRequest

_LOADING = timedelta(minutes=10)


class Planners(Replanning):
    """The part of ``PlanRun`` that asks planners. ``_planner`` is the request under way, with its number."""

    _planner: tuple[int, asyncio.Task[None]] | None = None
    _state: dict[str, Any]

    def _plan(self, step: MakePlan) -> None:
        """Ask the planner; its answer is applied as soon as it is ready."""
        self._planner = step.number, asyncio.create_task(self._planned(step))

    def _keep_planner(self) -> None:
        """Stop asking when nobody waits for the answer any more."""
        if self._planner is None:
            return
        number, task = self._planner
        if task.done():
            self._planner = None
        elif self._run.planning is None or self._run.planning["number"] != number:
            task.cancel()
            self._planner = None

    async def _planned(self, step: MakePlan) -> None:
        failed: ReplanFailed | None = None
        try:
            await self._take_answer(step, await self._answer(step))
        except asyncio.CancelledError:
            return
        except ActivityError as error:
            # The planner itself failed, and was asked again as its retry policy says.
            failed = ReplanFailed(step.number, _payload(error.cause or error), final=True)
        except ApplicationError as refused:
            details = refused.details[0] if refused.details else {}
            problems = details.get("problems", []) if isinstance(details, dict) else []
            failed = ReplanFailed(step.number, _error(refused.message), problems or [{"message": refused.message}])
        if failed is not None and self._run.refusal(failed) is None:
            self._run.apply(failed, self._now())

    async def _take_answer(self, step: MakePlan, outputs: Mapping[str, Any]) -> None:
        """Let the run go on with what the planner answered.

        Raises:
            ApplicationError: it cannot be taken; its details say what is wrong with it.
        """
        change = _change(outputs)
        reason = outputs.get("reason")
        text = safe_text(reason, 2_000) if isinstance(reason, str) else None
        await self._replan(ReplanRequest(change, "planner", text, planning=step.number))

    async def _answer(self, step: MakePlan) -> Mapping[str, Any]:
        planner = self._run.program.planner
        assert planner is not None
        start_to_close, schedule_to_close, heartbeat = planner["timeouts"]
        task: wire.NodeTask = {
            "runId": self._run_id,
            "tenantId": self._tenant_id,
            "nodeId": wire.PLANNER,
            "type": planner["type"],
            "inputs": await self._planner_inputs(step, planner["inputs"]),
            "key": f"{self._state.get('keyRoot') or self._run_id}:{wire.PLANNER}:{step.number}:{step.attempt}",
            "generation": step.number,
            "startToCloseMs": start_to_close,
            "retry": planner["retry"],
            "run": dict(self._state["about"]),
            "name": "planner",
        }
        if "handler" in planner:
            task["handler"] = planner["handler"]
        if "capabilities" in planner:
            task["capabilities"] = planner["capabilities"]
        if "secrets" in planner:
            task["secrets"] = planner["secrets"]
        result = await workflow.execute_activity(
            planner["type"],
            task,
            result_type=dict,
            start_to_close_timeout=timedelta(milliseconds=start_to_close) + GRACE,
            schedule_to_close_timeout=None if schedule_to_close is None else timedelta(milliseconds=schedule_to_close),
            heartbeat_timeout=timedelta(milliseconds=heartbeat),
            retry_policy=retry_policy(planner["retry"]),
            cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
            summary=f"planner, replan {step.number}",
            priority=temporal_priority(self._run.program.priority, self._tenant_id),
        )
        outputs = result.get("outputs") if isinstance(result, dict) else None
        return outputs if isinstance(outputs, dict) else {}

    async def _planner_inputs(self, step: MakePlan, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a planner gets: its own inputs, the plan, what asks for another, and how far the run is."""
        run = self._run
        request = {
            "runId": self._run_id,
            "tenantId": self._tenant_id,
            "revision": run.revision,
            "plan": run.plan_digest,
        }
        plan = await workflow.execute_activity(
            wire.LOAD_PLAN,
            request,
            result_type=dict,
            start_to_close_timeout=_LOADING,
            schedule_to_close_timeout=_LOADING,
            heartbeat_timeout=timedelta(seconds=5),
            retry_policy=RETRY,
        )
        statuses = zip(run.program.ids, run.statuses, strict=True)
        return {
            **own,
            "plan": plan,
            "revision": run.revision,
            "runInputs": dict(run.inputs),
            "causes": [dict(cause) for cause in step.causes],
            "statuses": {node_id: str(status) for node_id, status in statuses if status is not PENDING},
            "problems": [dict(problem) for problem in step.problems],
        }


def _change(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{patch}`` or ``{plan}`` of a planner's outputs; of an http planner's, from the answer's body.

    Raises:
        ApplicationError: it has neither, or both.
    """
    body = outputs.get("body")
    if "patch" not in outputs and "plan" not in outputs and isinstance(body, dict):
        outputs = body
    change = {name: outputs[name] for name in ("patch", "plan") if isinstance(outputs.get(name), dict)}
    if len(change) != 1:
        raise ApplicationError("the planner answers with either a patch or a plan, an object", non_retryable=True)
    unsafe = find_unsafe(change)
    if unsafe is not None:
        raise ApplicationError(f"the planner's answer{unsafe[0]} {unsafe[1]}", non_retryable=True)
    return change


def _payload(cause: BaseException) -> dict[str, Any]:
    if isinstance(cause, ApplicationError):
        payload = cause.details[0] if cause.details else None
        if isinstance(payload, dict) and payload.get("type") in ErrorType.__members__:
            return payload
        return _error(cause.message)
    return _error(f"{type(cause).__name__}: {cause}"[:2000])


def _error(message: str) -> dict[str, Any]:
    return ErrorPayload(type=ErrorType.UNKNOWN_ERROR, message=message, origin_node=wire.PLANNER).wire()
