"""What is seen of every activity, whatever it does: counted, timed, and known by name to its log lines and its span."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError, is_cancelled_exception
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from dalang import tracing
from dalang.about import telling
from dalang.metrics import ACTIVITIES, ACTIVITY_SECONDS, ATTEMPTS_FAILED, IN_FLIGHT
from dalang.wire import ASKS_PERSON, DEFERRED


class ObservingInterceptor(Interceptor):
    """Installs :class:`Observed` in a worker."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Return the observer of an activity."""
        return Observed(next)


class Observed(ActivityInboundInterceptor):
    """Observes one attempt of an activity."""

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        """Let it run, and tell how it went."""
        info = activity.info()
        kind, outcome, began = info.activity_type, "completed", time.perf_counter()
        with telling(**_about(info, input.args[0] if input.args else None)), IN_FLIGHT.labels(kind).track_inprogress():
            tracing.describe({"dalang.attempt": info.attempt})
            try:
                result = await self.next.execute_activity(input)
                if isinstance(result, dict) and result.get("stopped") is True:
                    outcome = "cancelled"
                return result
            except BaseException as error:
                outcome = _outcome(error)
                if outcome == "failed":
                    failure = (error.type if isinstance(error, ApplicationError) else None) or type(error).__name__
                    ATTEMPTS_FAILED.labels(kind, failure).inc()
                    tracing.mark_failed(failure)
                raise
            finally:
                ACTIVITIES.labels(kind, outcome).inc()
                ACTIVITY_SECONDS.labels(kind).observe(time.perf_counter() - began)


def _outcome(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError) or is_cancelled_exception(error):
        return "cancelled"
    kind = error.type if isinstance(error, ApplicationError) else None
    return {DEFERRED: "deferred", ASKS_PERSON: "asked"}.get(kind or "", "failed")


def _about(info: activity.Info, task: Any) -> dict[str, Any]:
    """Return what the input of an activity says of its run and node; those of our own have both in the same places."""
    if not isinstance(task, Mapping):
        return {"attempt": info.attempt}
    about = task.get("run")
    return {
        "run": task.get("runId"),
        "node": task.get("nodeId"),
        "tenant": task.get("tenantId"),
        "plan": about.get("plan") if isinstance(about, Mapping) else None,
        "attempt": task.get("attempt", 1) + info.attempt - 1,
    }
