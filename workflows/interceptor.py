"""The guard in front of the workflow: a failed workflow task stops a run for ever, so no input may cause one."""

from __future__ import annotations

import dataclasses
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.worker import (
    ExecuteWorkflowInput,
    HandleSignalInput,
    HandleUpdateInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

with workflow.unsafe.imports_passed_through():
    from dalang.about import telling
    from dalang.workflows.plan_run import PlanRun
    from dalang.workflows.requests import INVALID_REQUEST


class GuardInterceptor(Interceptor):
    """Installs :class:`Guard` in a worker or replayer."""

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor] | None:
        """Return the guard for every workflow."""
        return Guard


class Guard(WorkflowInboundInterceptor):
    """Turns what a bad input would raise into a recorded refusal."""

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:
        """Start the workflow with no more arguments than it has."""
        args = list(input.args)[:2]
        with telling(**_about(args)):
            try:
                result = await super().execute_workflow(dataclasses.replace(input, args=args))
            except ApplicationError:
                workflow.logger.info("the run ended FAILED")
                raise
            if isinstance(result, dict) and "status" in result:
                workflow.logger.info("the run ended %s", result["status"])
            return result

    async def handle_signal(self, input: HandleSignalInput) -> None:
        """Hand a signal on; what its handler raises is recorded as a rejected request."""
        try:
            await super().handle_signal(input)
        except Exception as error:
            instance = workflow.instance()
            if isinstance(instance, PlanRun):
                reason = (
                    f"a signal takes one JSON payload, not {len(input.args)}"
                    if isinstance(error, TypeError)
                    else "failed"
                )
                instance.reject(f"signal {input.signal}", reason)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:
        """Hand an update on; what its handler raises becomes the caller's error, never the task's."""
        try:
            return await super().handle_update_handler(input)
        except FailureError:
            raise
        except Exception as error:
            message = f"update {input.update} was refused: {type(error).__name__}"
            raise ApplicationError(message, type=INVALID_REQUEST, non_retryable=True) from error


def _about(args: list[Any]) -> dict[str, Any]:
    """Return what log lines and spans tell of the run; it decides nothing, and any input will do."""
    state = args[1] if len(args) > 1 and isinstance(args[1], dict) else {}
    about = state.get("about")
    plan = about.get("plan") if isinstance(about, dict) else None
    return {"run": state.get("runId"), "tenant": state.get("tenantId"), "plan": plan}
