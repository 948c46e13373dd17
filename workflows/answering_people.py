"""What people decide in a run: the signals, updates and the query about human tasks."""

from __future__ import annotations

from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from dalang import wire
    from dalang.events import TaskClaimed, TaskDecided, TaskDelegated, TaskReleased
    from dalang.workflows.answering import Answering

MAX_TASKS = 100
"""So many open tasks a query answers; all of them stand in the read model."""


class AnsweringPeople(Answering):
    """The part of ``PlanRun`` that people with human tasks talk to.

    The payloads stand in ``requests.REQUESTS``. An update answers ``{runId, status, taskId, taskStatus}``; a decision
    that comes again with its ``decisionId`` changes nothing and is told the same of the task.
    """

    @workflow.signal(name=wire.SIGNAL_COMPLETE_TASK)
    def complete_human_task(self, request: Any = None) -> None:
        """Decide a task."""
        self._signalled(wire.SIGNAL_COMPLETE_TASK, TaskDecided, request)

    @workflow.signal(name=wire.SIGNAL_CLAIM_TASK)
    def claim_human_task(self, request: Any = None) -> None:
        """Take a task."""
        self._signalled(wire.SIGNAL_CLAIM_TASK, TaskClaimed, request)

    @workflow.signal(name=wire.SIGNAL_RELEASE_TASK)
    def release_human_task(self, request: Any = None) -> None:
        """Give a task back."""
        self._signalled(wire.SIGNAL_RELEASE_TASK, TaskReleased, request)

    @workflow.signal(name=wire.SIGNAL_DELEGATE_TASK)
    def delegate_human_task(self, request: Any = None) -> None:
        """Give a task to somebody else."""
        self._signalled(wire.SIGNAL_DELEGATE_TASK, TaskDelegated, request)

    @workflow.update(name=wire.UPDATE_COMPLETE_TASK)
    async def update_complete_human_task(self, request: Any = None) -> dict[str, Any]:
        """Decide a task, and answer with what became of it."""
        return await self._updated(TaskDecided, request)

    @update_complete_human_task.validator
    def _may_complete_human_task(self, request: Any = None) -> None:
        self._validate(TaskDecided, request)

    @workflow.update(name=wire.UPDATE_CLAIM_TASK)
    async def update_claim_human_task(self, request: Any = None) -> dict[str, Any]:
        """Take a task."""
        return await self._updated(TaskClaimed, request)

    @update_claim_human_task.validator
    def _may_claim_human_task(self, request: Any = None) -> None:
        self._validate(TaskClaimed, request)

    @workflow.update(name=wire.UPDATE_RELEASE_TASK)
    async def update_release_human_task(self, request: Any = None) -> dict[str, Any]:
        """Give a task back."""
        return await self._updated(TaskReleased, request)

    @update_release_human_task.validator
    def _may_release_human_task(self, request: Any = None) -> None:
        self._validate(TaskReleased, request)

    @workflow.update(name=wire.UPDATE_DELEGATE_TASK)
    async def update_delegate_human_task(self, request: Any = None) -> dict[str, Any]:
        """Give a task to somebody else."""
        return await self._updated(TaskDelegated, request)

    @update_delegate_human_task.validator
    def _may_delegate_human_task(self, request: Any = None) -> None:
        self._validate(TaskDelegated, request)

    @workflow.query(name=wire.QUERY_TASKS)
    def tasks(self, request: Any = None) -> dict[str, Any]:
        """Return the open tasks, oldest first, at most :data:`MAX_TASKS`, and how many there are."""
        if self._invalid is not None:
            return {"invalid": self._invalid}
        tasks = list(self._run.tasks.values())
        return {"tasks": [task.shown() for task in tasks[:MAX_TASKS]], "total": len(tasks)}
