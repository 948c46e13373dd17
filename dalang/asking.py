"""The open human tasks of a run: raised, claimed, given on, ended, and remembered.

What a task is about, and what follows when it is decided, is for ``people.py``; what can be said of one by itself
stands in ``human_task.py``. A task ends exactly once: COMPLETED, EXPIRED, or CANCELLED since the run ends. Decisions
are remembered by their ``decisionId``: one that comes twice, also after continue-as-new, is answered as the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from dalang.authority import claimed
from dalang.callbacks import Callbacks
from dalang.events import Event, TaskClaimed, TaskDecided, TaskDelegated, TaskReleased
from dalang.human_task import OpenTask, digest_of, task_id
from dalang.program import Program
from dalang.statuses import ImpossibleMove, NodeStatus, TaskStatus, UnacceptableContent
from dalang.wire import EventType

MAX_REMEMBERED = 1_000
"""So many decisions, and ended tasks, are remembered; the oldest are forgotten first."""

TaskEvent = TaskDecided | TaskClaimed | TaskReleased | TaskDelegated


class Asking(Callbacks):
    """A run's state with its open tasks. ``task_deciders`` says by kind of task what a decision does."""

    task_deciders: ClassVar[dict[str, Callable[[Any, OpenTask, TaskDecided], None]]] = {}

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self.tasks: dict[str, OpenTask] = {}
        self._task_of: dict[str, str] = {}
        self._task_counts: dict[str, int] = {}
        self._ended_tasks: dict[str, str] = {}
        self._decisions: dict[str, dict[str, str]] = {}

    # -- raising and ending ------------------------------------------------------------------------------------------

    def _raise_task(
        self,
        node: int,
        kind: str,
        actions: Sequence[str],
        error: Mapping[str, Any] | None = None,
        *,
        title: str,
        description: str | None = None,
        form: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        notes: Mapping[str, Any] | None = None,
        **terms: Any,
    ) -> OpenTask:
        """Ask a person about ``node``, which has no other open task, and return the task.

        ``kind`` is a key of :attr:`task_deciders`, whose function is called as ``(self, task, event)`` when the task is
        decided: ``task`` has ended then, ``event.action`` is one of ``actions``. Shown are the texts, ``error`` and
        ``context``, by default the node's inputs. ``notes`` become data of the fact, ``terms`` are further fields of
        :class:`~dalang.human_task.OpenTask`. A task about a node in flight makes it AWAITING_HITL. To withdraw it:
        :meth:`_withdraw_question`.
        """
        node_id = self.program.ids[node]
        number = self._task_counts[node_id] = self._task_counts.get(node_id, -1) + 1
        shown: dict[str, Any] = {
            "kind": kind,
            "title": title,
            "description": description,
            "context": self.given.get(node, {}) if context is None else context,
            "form": form,
            "error": error,
            "actions": list(actions),
        }
        task = OpenTask(
            id=task_id(str(self.about.get("id", "")), node_id, self.generations.get(node, 0), number),
            node=node_id,
            kind=kind,
            actions=list(actions),
            title=title,
            digest=digest_of(shown),
            created_at=self._at,
            error=error,
            **{"priority": self.program.node_priority(node), **terms},
        )
        self.tasks[task.id] = task
        self._task_of[node_id] = task.id
        data = {
            **self._task_data(task),
            "kind": kind,
            "priority": task.priority,
            "dueAt": task.due_at,
            "remindAt": task.remind_at,
            "escalateAt": task.escalate_at,
            "quorum": task.quorum,
            "fourEyes": task.four_eyes,
            "candidates": task.candidates,
            "digest": task.digest,
            "actions": task.actions,
            **(notes or {}),
        }
        texts = ("title", "description", "context", "form", "error")
        body = {key: shown[key] for key in texts if shown[key] is not None} | {"excluded": list(task.excluded)}
        if self.statuses[node] is NodeStatus.RUNNING:
            self._move_node(node, NodeStatus.AWAITING_HITL, EventType.HITL_TASK_CREATED, data, body)
        else:
            self._emit(EventType.HITL_TASK_CREATED, node, without_none(data), body)
        return task

    @staticmethod
    def _task_data(task: OpenTask) -> dict[str, Any]:
        return {"task": task.id, "taskStatus": str(task.status), "assignee": task.assignee, "group": task.group}

    def _tell_of(
        self, task: OpenTask, kind: EventType, data: Mapping[str, Any], body: dict[str, Any] | None = None
    ) -> None:
        self._emit(kind, self.program.index[task.node], without_none({**self._task_data(task), **data}), body)

    def _end_task(
        self,
        task: OpenTask,
        to: TaskStatus,
        kind: EventType,
        data: Mapping[str, Any],
        body: dict[str, Any] | None = None,
    ) -> None:
        task.move(to, kind)
        del self.tasks[task.id], self._task_of[task.node]
        self._drop_alarms(task.id)
        _remember(self._ended_tasks, task.id, str(to))
        self._tell_of(task, kind, data, body)

    def _withdraw_question(self, node: int) -> Mapping[str, Any] | None:
        """Cancel the open task about ``node``, if there is one, since the run ends; return the error it was about."""
        task = self._open_task(node)
        if task is None:
            return None
        self._end_task(task, TaskStatus.CANCELLED, EventType.HITL_TASK_CANCELLED, {})
        return task.error

    def _open_task(self, node: int) -> OpenTask | None:
        found = self._task_of.get(self.program.ids[node])
        return None if found is None else self.tasks[found]

    def _is_asked_about(self, node: int) -> bool:
        return self.program.ids[node] in self._task_of

    # -- what may be done --------------------------------------------------------------------------------------------

    def _too_late(self, name: str, event: Event, at: int | None) -> ImpossibleMove | None:
        """Return that a task is due already, though its alarm was not handled yet: whichever comes first counts."""
        task = self.tasks.get(event.task) if isinstance(event, TaskEvent) and not self._is_repeated(event) else None
        if task is None or at is None or task.due_at is None or at < task.due_at:
            return None
        return ImpossibleMove(name, task.subject, TaskStatus.EXPIRED)

    def _is_repeated(self, event: TaskEvent) -> bool:
        return isinstance(event, TaskDecided) and event.decision_id in self._decisions

    def _not_open(self, name: str, event: TaskEvent) -> ImpossibleMove | None:
        if event.task in self.tasks:
            return None
        return ImpossibleMove(name, f"task {event.task}", self._ended_tasks.get(event.task, "no open task of this run"))

    def _claim_refusal(self, name: str, event: TaskClaimed) -> ImpossibleMove | None:
        gone = self._not_open(name, event)
        if gone is not None:
            return gone
        task = self.tasks[event.task]
        objection = task.objection(event.operator, event.groups)
        if objection is None and task.quorum > 1:
            objection = f"decided by {task.quorum} people, so nobody claims it"
        if objection is None and task.assignee not in (None, claimed(event.operator)):
            objection = f"assigned to {task.assignee}"
        return None if objection is None else ImpossibleMove(name, task.subject, objection)

    def _release_refusal(self, name: str, event: TaskReleased) -> ImpossibleMove | None:
        gone = self._not_open(name, event)
        if gone is not None:
            return gone
        task = self.tasks[event.task]
        if task.status is not TaskStatus.IN_PROGRESS:
            return ImpossibleMove(name, task.subject, "claimed by nobody")
        if claimed(event.operator) == task.assignee or event.override:
            return None
        return ImpossibleMove(name, task.subject, f"claimed by {task.assignee}")

    def _delegate_refusal(self, name: str, event: TaskDelegated) -> ImpossibleMove | None:
        gone = self._not_open(name, event)
        if gone is not None:
            return gone
        task = self.tasks[event.task]
        objection = None if event.override else task.objection(event.operator, event.groups)
        if objection is not None:
            return ImpossibleMove(name, task.subject, objection)
        if event.to is None and event.to_group is None:
            return UnacceptableContent(name, "to, or toGroup, is missing")
        if event.to is not None and task.quorum > 1:
            return ImpossibleMove(name, task.subject, f"decided by {task.quorum} people; delegate it to a group")
        if event.to_group is not None and task.candidates is not None:
            return ImpossibleMove(name, task.subject, f"reserved to {', '.join(task.candidates[:10])}")
        if event.to is not None and (event.to in task.excluded or event.to not in (task.candidates or [event.to])):
            return UnacceptableContent(name, f"{event.to} may not decide it")
        return None

    # -- what is done ------------------------------------------------------------------------------------------------

    def _claim_task(self, event: TaskClaimed) -> None:
        task = self.tasks[event.task]
        if task.status is TaskStatus.IN_PROGRESS:
            return  # by the same person: whoever claims twice has claimed
        task.move(TaskStatus.IN_PROGRESS, "claim")
        task.assignee = claimed(event.operator)
        self._tell_of(task, EventType.HITL_TASK_CLAIMED, {"operator": event.operator})

    def _release_task(self, event: TaskReleased) -> None:
        task = self.tasks[event.task]
        task.move(TaskStatus.PENDING, "release")
        task.assignee = task.asked
        self._tell_of(task, EventType.HITL_TASK_RELEASED, {"operator": event.operator})

    def _delegate_task(self, event: TaskDelegated) -> None:
        task = self.tasks[event.task]
        task.move(TaskStatus.PENDING, "delegate")
        task.asked = task.assignee = event.to
        task.group = event.to_group or task.group
        self._tell_of(task, EventType.HITL_TASK_DELEGATED, {"operator": event.operator})

    def _remember_decision(self, event: TaskDecided, task: OpenTask) -> None:
        if event.decision_id is not None:
            made = {"task": task.id, "action": event.action, "taskStatus": str(task.status)}
            _remember(self._decisions, event.decision_id, made)

    def task_answer(self, event: TaskEvent) -> dict[str, str]:
        """Return what whoever sent ``event`` is told of the task; of a repeated decision what he was told before."""
        known = self._decisions.get(event.decision_id or "") if isinstance(event, TaskDecided) else None
        if known is not None:
            return {"taskId": known["task"], "taskStatus": known["taskStatus"]}
        task = self.tasks.get(event.task)
        status = self._ended_tasks.get(event.task, "") if task is None else str(task.status)
        return {"taskId": event.task, "taskStatus": status}

    # -- snapshot ----------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; of tasks only what there is."""
        kept = {
            "tasks": [task.snapshot() for task in self.tasks.values()],
            "taskCounts": dict(self._task_counts),
            "endedTasks": dict(self._ended_tasks),
            "decisions": dict(self._decisions),
        }
        return {**super().snapshot(), **{key: value for key, value in kept.items() if value}}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        tasks = [OpenTask.restore(task) for task in snapshot.get("tasks", ())]
        self.tasks = {task.id: task for task in tasks}
        self._task_of = {task.node: task.id for task in tasks}
        self._task_counts = dict(snapshot.get("taskCounts", {}))
        self._ended_tasks = dict(snapshot.get("endedTasks", {}))
        self._decisions = dict(snapshot.get("decisions", {}))


def without_none(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``data`` without what is not there."""
    return {key: value for key, value in data.items() if value is not None}


def _remember(known: dict[str, Any], key: str, value: Any) -> None:
    known[key] = value
    if len(known) > MAX_REMEMBERED:
        del known[next(iter(known))]
