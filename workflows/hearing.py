"""How a run hears of what happened outside: the signal and update ``external_event``."""

from __future__ import annotations

from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from dalang import wire
    from dalang.events import ExternalEvent
    from dalang.workflows.answering import Answering


class HearingEvents(Answering):
    """The part of ``PlanRun`` that hears of external events."""

    @workflow.signal(name=wire.SIGNAL_EXTERNAL_EVENT)
    def external_event(self, request: Any = None) -> None:
        """Hand an external event to the node that waits for it, or keep it."""
        self._signalled(wire.SIGNAL_EXTERNAL_EVENT, ExternalEvent, request)

    @workflow.update(name=wire.UPDATE_EXTERNAL_EVENT)
    async def update_external_event(self, request: Any = None) -> dict[str, Any]:
        """Hand an external event to the node that waits for it, or keep it, and answer with the run's status."""
        return await self._updated(ExternalEvent, request)

    @update_external_event.validator
    def _may_external_event(self, request: Any = None) -> None:
        self._validate(ExternalEvent, request)
