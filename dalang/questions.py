"""Questions: the handler of a node asks a person, ends, and runs again with the answer.

Nobody works on a node whose handler has asked: it is AWAITING_HITL with a task of kind ``input``, without a worker and
without a slot. With the answer it starts again as the same work: the same inputs, generation, idempotency key and
checkpoint. A question is no failed attempt. Who declines to answer fails the node. Where it had an agent, the answer is
for that one: the node asks for its lease with the agent's name among the capabilities, which counts as long as there is
somebody of that name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dalang.canonical import safe_text
from dalang.errors import ErrorType
from dalang.events import PersonAsked, SkipRequested, Start, TaskDecided
from dalang.human_task import INPUT, OpenTask, form_problem, misplaced, with_form_defaults
from dalang.needs import Needs
from dalang.people import DUE, MAX_DESCRIPTION, MAX_TITLE, People
from dalang.program import Program
from dalang.run_state import ACTIVITY, CORE_WAITS, PENDING, WAIT, moved
from dalang.statuses import IN_FLIGHT, ImpossibleMove, NodeStatus, TaskStatus, UnacceptableContent
from dalang.wire import EventType, HumanAnswer

PERSON = "person"
"""What a node waits for whose handler has asked."""
MAX_QUESTIONS = 100
"""So many tasks a node raises at most: a handler that asks for ever is stopped."""


class Questions(People):
    """A run's state with what handlers ask.

    ``replies`` is by node the last answer that its handler was given, ``askers`` the agent that waits for one.
    """

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self.replies: dict[int, HumanAnswer] = {}
        self.askers: dict[int, str] = {}

    # -- asking ----------------------------------------------------------------------------------------------------

    def _question_refusal(self, name: str, event: PersonAsked) -> ImpossibleMove | None:
        number = self.program.index.get(event.node)
        if number is None or self.statuses[number] not in IN_FLIGHT or number in self.waits:
            return ImpossibleMove(name, f"node {event.node}", "not working")
        return None

    def _person_asked(self, event: PersonAsked) -> None:
        node = self.program.index[event.node]
        agent = self.leases.get(node, {}).get("agent")
        self._withdraw(node)
        self._keep_checkpoint(node, event.checkpoint)
        if event.attempts > self.attempts.get(node, 0):  # made by the activity that has ended now
            self.attempts[node] = event.attempts
        if self._is_answered(node):  # by a callback, which is what counts about the work
            self._use_answer(node, {}, event.notes)
        elif self.ending and node < self.program.first_finally:
            self.answers.pop(node, None)
            self._cancel_wait(node)
        elif self._task_counts.get(event.node, -1) + 1 >= MAX_QUESTIONS:
            message = f"node {event.node} has asked people {MAX_QUESTIONS} times; it is stopped"
            self._fail(node, self._error(node, ErrorType.RESOURCE_EXHAUSTED, message), event.notes)
        else:
            self._starts_again(node)
            if agent is not None:
                self.askers[node] = agent
            self._ask_for_input(node, event)

    def _ask_for_input(self, node: int, event: PersonAsked) -> None:
        question = event.question
        text, due = question["text"], question.get("dueMs")
        title = question.get("title") or text.partition("\n")[0]
        task = self._raise_task(
            node,
            INPUT,
            ("answer", "reject"),
            title=safe_text(title, MAX_TITLE),
            description=None if text == title else safe_text(text, MAX_DESCRIPTION),
            form=question.get("form"),
            context=question.get("context"),
            notes=event.notes,
            asked=question.get("assignee"),
            assignee=question.get("assignee"),
            group=question.get("group"),
            due_at=None if due is None else self._at + due,
        )
        task.form = question.get("form")
        if task.due_at is not None:
            self._set_alarm(task.due_at, DUE, task.id)
        self.waits[node] = {"waitsFor": PERSON}
        self._busy[self._slots[node]] -= 1
        self._busy[WAIT] += 1
        self._slots[node] = WAIT

    def _end_task(
        self,
        task: OpenTask,
        to: TaskStatus,
        kind: EventType,
        data: Mapping[str, Any],
        body: dict[str, Any] | None = None,
    ) -> None:
        super()._end_task(task, to, kind, data, body)
        if task.kind == INPUT:
            self._wait_over(self.program.index[task.node])

    # -- the answer ------------------------------------------------------------------------------------------------

    def _content_refusal(self, name: str, task: OpenTask, event: TaskDecided) -> ImpossibleMove | None:
        if task.kind != INPUT:
            return super()._content_refusal(name, task, event)
        given = {"values": event.values, "outputs": event.outputs, "inputs": event.inputs}
        problem = misplaced(event.action, given) or form_problem(task.form, event.values, event.action)
        return None if problem is None else UnacceptableContent(name, problem)

    def _question_decided(self, task: OpenTask, event: TaskDecided) -> None:
        node = self.program.index[task.node]
        self._had_hand(node, event.operator)
        if event.action == "reject":
            details = {"decidedBy": event.operator, "notes": event.notes}
            message = f"{event.operator} declined to answer"
            self._fail(node, self._error(node, ErrorType.POLICY_VIOLATION, message, **details))
            return
        values = with_form_defaults(task.form, event.values)
        answer: HumanAnswer = {"task": task.id, "values": values, "by": event.operator}
        if event.notes is not None:
            answer["notes"] = event.notes
        self.replies[node] = answer
        self._move_node(node, PENDING, EventType.NODE_DEQUEUED, {"reason": "a person answered"})
        self._make_ready(node)

    def _make_ready(self, node: int) -> None:
        if self._slots[node] == WAIT and self.program.types[node] not in CORE_WAITS:
            self._slots[node] = ACTIVITY  # it asked, and is run again
        super()._make_ready(node)

    def _skip(self, event: SkipRequested) -> None:
        node = self.program.index[event.node]
        if self.statuses[node] is NodeStatus.AWAITING_HITL:
            self._withdraw_question(node)
        super()._skip(event)

    def _with_past(self, step: Start) -> Start:
        step = super()._with_past(step)
        answer = self.replies.get(step.node)
        return step if answer is None else replace(step, answer=answer)

    def _needs(self, node: int) -> Needs | None:
        needs, agent = super()._needs(node), self.askers.get(node)
        if needs is None or agent is None or agent in needs.capabilities:
            return needs
        return replace(needs, capabilities=(*needs.capabilities, agent))

    def _with_lease(self, step: Start) -> Start:
        self.askers.pop(step.node, None)  # it begins, and if it fails anybody may try
        return super()._with_lease(step)

    # -- keeping ---------------------------------------------------------------------------------------------------

    def _forget(self, node: int) -> None:
        super()._forget(node)
        self.replies.pop(node, None)
        self.askers.pop(node, None)

    def _index(self) -> None:
        super()._index()
        if not self.counts.get(NodeStatus.AWAITING_HITL):
            return
        for node, status in enumerate(self.statuses):
            if status is NodeStatus.AWAITING_HITL and self._slots[node] != WAIT:
                self._busy[self._slots[node]] -= 1
                self._busy[WAIT] += 1
                self._slots[node] = WAIT

    def _renumber(self, program: Program, to: Sequence[int | None]) -> None:
        super()._renumber(program, to)
        self.replies, self.askers = moved(self.replies, to), moved(self.askers, to)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; answers only where there are any."""
        kept = {
            "replies": [[node, answer] for node, answer in self.replies.items()],
            "askers": [[node, agent] for node, agent in self.askers.items()],
        }
        return {**super().snapshot(), **{name: value for name, value in kept.items() if value}}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        self.replies = {node: answer for node, answer in snapshot.get("replies", ())}
        self.askers = {node: agent for node, agent in snapshot.get("askers", ())}


Questions.task_deciders[INPUT] = Questions._question_decided
