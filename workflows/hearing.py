"""How a run hears of what happened outside: the signals and updates ``external_event`` and ``callback``."""

from __future__ import annotations

from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from dalang import wire
    from dalang.events import CallbackReceived, ExternalEvent
    from dalang.workflows.answering import Answering


class HearingEvents(Answering):
    """The part of ``PlanRun`` that hears of external events and callbacks."""

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

    @workflow.signal(name=wire.SIGNAL_CALLBACK)
    def callback(self, request: Any = None) -> None:
        """End a node by what somebody called back; the API sends it, which knows the callback's token."""
        self._signalled(wire.SIGNAL_CALLBACK, CallbackReceived, request)

    @workflow.update(name=wire.UPDATE_CALLBACK)
    async def update_callback(self, request: Any = None) -> dict[str, Any]:
        """End a node by what somebody called back, and answer with the run's status."""
        return await self._updated(CallbackReceived, request)

    @update_callback.validator
    def _may_callback(self, request: Any = None) -> None:
        self._validate(CallbackReceived, request)
