"""People: what human nodes and failures ask of them, and what follows when a task is decided or expires.

A person is a slow activity. A human node is begun like any other (NODE_STARTED) and then waits, AWAITING_HITL, for its
task. Due dates, reminders and escalations are alarms. How tasks are kept, claimed and ended stands in ``asking.py``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from dalang.asking import Asking, without_none
from dalang.authority import claimed
from dalang.canonical import find_unsafe, safe_text
from dalang.dataflow import InvalidInputs, apply_ports
from dalang.errors import ErrorPayload, ErrorType
from dalang.events import RetryRequested, SkipRequested, TaskDecided
from dalang.expressions import ExpressionError
from dalang.human_task import APPROVAL, FAILURE, OpenTask, form_problem, misplaced, with_form_defaults
from dalang.program import TASK_TEXTS, Program
from dalang.run_state import DEAD
from dalang.statuses import ImpossibleMove, NodeStatus, RunStatus, TaskStatus, UnacceptableContent
from dalang.wire import EventType

DUE, REMINDER, ESCALATION = "task-due", "task-reminder", "task-escalation"
"""Kinds of alarms; their subject is a task's id."""
MAX_TITLE, MAX_DESCRIPTION, MAX_NAME = 500, 20_000, 200


class People(Asking):
    """A run's state with its human nodes, and with people who are asked about failures."""

    def __init__(
        self, program: Program, inputs: Mapping[str, Any], about: Mapping[str, Any], max_in_flight: int = 50
    ) -> None:
        super().__init__(program, inputs, about, max_in_flight)
        self._task_words: dict[str, Mapping[str, Any]] = {}
        """By human node that has started and may be asked again: its texts and names."""
        self._hands: dict[str, list[str]] = {}
        """By node: who decided it, or gave its inputs or outputs."""

    @abstractmethod
    def _own_inputs(self, node: int) -> Mapping[str, Any]:
        """Return what ``inputs`` means in the expressions of ``node``."""

    def _weigh_waiting(self) -> None:
        """Keep AWAITING_HITL true to its meaning: people are asked, and nothing can move until they decide."""
        if self.status not in (RunStatus.RUNNING, RunStatus.AWAITING_HITL):
            return
        waits = bool(self.tasks) and not self._is_moving()
        if waits and self.status is RunStatus.RUNNING:
            self._move_run(RunStatus.AWAITING_HITL, EventType.PLAN_AWAITING_HITL, {"tasks": len(self.tasks)})
        elif not waits and self.status is RunStatus.AWAITING_HITL:
            self._move_run(RunStatus.RUNNING, EventType.PLAN_RESUMED, {})

    def _is_moving(self) -> bool:
        """Whether something goes on, or is about to, without anybody's decision."""
        moving = (NodeStatus.RUNNING, NodeStatus.RETRYING, NodeStatus.QUEUED)
        at_work = any(self.counts.get(status) for status in moving) or bool(self._working_on)
        return at_work or self._next_startable() is not None

    # -- human nodes -------------------------------------------------------------------------------------------------

    def _word_task(self, node: int, inputs: Mapping[str, Any]) -> None:
        """Put together what a human node that is about to start says and whom it asks; other nodes say nothing.

        Raises:
            InvalidInputs: a text cannot be evaluated, a name is none, or an input is no JSON that can be recorded.
        """
        program, node_id = self.program, self.program.ids[node]
        if program.types[node] != "human":
            return
        unsafe = find_unsafe(inputs)
        if unsafe is not None:
            raise InvalidInputs(f"the input {unsafe[0]} of node {node_id} {unsafe[1]}", {"code": "NOT_JSON"})
        if node in self.given and node_id in self._task_words:
            return  # it is asked again: what its texts read may be gone
        spec = self._spec(node)
        template = program.task_template(node)
        words: Mapping[str, Any] = {key: spec[key] for key in TASK_TEXTS if key in spec}
        if template is not None:
            try:
                context = self._context(program.input_references.get(node, ()))
                words = template.render({**context, "inputs": self._own_inputs(node)})
            except ExpressionError as failure:
                place = f"task{failure.pointer or ''} of node {node_id}"
                details = {"code": failure.code, "expression": place}
                raise InvalidInputs(f"{place} could not be evaluated: {failure.message}", details) from None
        self._task_words[node_id] = {
            "title": _text(words.get("title") or program.nodes[node].get("name", node_id), MAX_TITLE),
            "description": _text(words["description"], MAX_DESCRIPTION) if words.get("description") else None,
            "assignee": _name("assignee", words.get("assignee"), node_id),
            "group": _name("candidateGroup", words.get("candidateGroup"), node_id),
        }

    def _ask(self, node: int, inputs: Mapping[str, Any]) -> None:
        """Let a human node that has just started ask its person."""
        spec, words = self._spec(node), self._task_words[self.program.ids[node]]
        quorum, four_eyes = spec.get("quorum", 1), spec.get("fourEyes", False)
        excluded = self.contributors(node) if four_eyes else []
        candidates = spec.get("candidates")
        if candidates is not None:
            left = [name for name in candidates if name not in excluded]
            if len(left) < quorum:
                message = f"{quorum} of the candidates must approve, but four eyes leave only {len(left)} who may"
                self._fail(node, self._error(node, ErrorType.POLICY_VIOLATION, message))
                return
        assignee = None if words["assignee"] in excluded else words["assignee"]
        due = self._at + spec["due"] if "due" in spec else None
        task = self._raise_task(
            node,
            APPROVAL,
            # What several people approve stays as it is: an edit of one would be approved by nobody else.
            ("approve", "reject", "edit") if quorum == 1 else ("approve", "reject"),
            title=words["title"],
            description=words["description"],
            form=spec.get("form"),
            asked=assignee,
            assignee=assignee,
            group=words["group"],
            candidates=candidates,
            excluded=excluded,
            four_eyes=four_eyes,
            quorum=quorum,
            due_at=due,
            remind_at=due - spec["reminder"] if due is not None and "reminder" in spec else None,
            escalate_at=self._at + spec["escalation"]["after"] if "escalation" in spec else None,
            **({"priority": spec["priority"]} if "priority" in spec else {}),
        )
        for at, kind in ((task.due_at, DUE), (task.remind_at, REMINDER), (task.escalate_at, ESCALATION)):
            if at is not None:
                self._set_alarm(at, kind, task.id)

    def _cancel_wait(self, node: int) -> None:
        self._withdraw_question(node)
        super()._cancel_wait(node)

    def _spec(self, node: int) -> Mapping[str, Any]:
        spec: Mapping[str, Any] = self.program.nodes[node].get("task") or {}
        return spec

    def contributors(self, node: int) -> list[str]:
        """Return who started the run or had a hand in what ``node`` is given: decided, or gave inputs or outputs, there
        or in what it depends on, runs above and below included. A ``finally`` node depends on all others."""
        program = self.program
        seen, todo = {node}, [node]
        if node >= program.first_finally:
            seen.update(range(program.first_finally))
        while todo:
            sources = [program.sources[edge] for edge in program.edges_in[todo.pop()]]
            new = [source for source in dict.fromkeys(sources) if source not in seen]
            seen.update(new)
            todo.extend(new)
        creator = self.about.get("createdBy")
        names = [creator] if isinstance(creator, str) else []
        names += self.about.get("contributors", ())
        names += [name for one in sorted(seen) for name in self._hands.get(program.ids[one], ())]
        return list(dict.fromkeys(names))

    @property
    def all_contributors(self) -> list[str]:
        """Who had a hand in anything of this run and the runs below it; not who started it."""
        return list(dict.fromkeys(name for names in self._hands.values() for name in names))

    def _had_hand(self, node: int, *operators: str | None) -> None:
        names = [claimed(name) for name in operators if name is not None]
        if names:
            known = self._hands.setdefault(self.program.ids[node], [])
            known.extend(name for name in dict.fromkeys(names) if name not in known)

    def _error(self, node: int, kind: ErrorType, message: str, **details: Any) -> dict[str, Any]:
        node_id = self.program.ids[node]
        return ErrorPayload(type=kind, message=message, details=details, origin_node=node_id).wire()

    def _let_go(self, node: int) -> None:
        super()._let_go(node)
        self._task_words.pop(self.program.ids[node], None)

    # -- failures ----------------------------------------------------------------------------------------------------

    def _ask_about(self, node: int, error: Mapping[str, Any]) -> None:
        name = self.program.nodes[node].get("name", self.program.ids[node])
        message = error.get("message")
        self._raise_task(
            node,
            FAILURE,
            ("retry", "skip", "abort"),
            error,
            title=_text(f"{name} failed", MAX_TITLE),
            description=_text(message, MAX_DESCRIPTION) if message else None,
        )

    def _decided(self, node: int, operator: str | None, action: str | None = None) -> None:
        task = self._open_task(node)
        if task is not None and action is not None:  # decided by retry_node or skip_node
            data = {"action": action, "completedBy": operator}
            body = {"decision": {"action": action}}
            self._end_task(task, TaskStatus.COMPLETED, EventType.HITL_TASK_COMPLETED, data, body)
        elif task is not None:
            self._withdraw_question(node)
        super()._decided(node, operator, action)

    def _retry(self, event: RetryRequested) -> None:
        if event.inputs:
            self._had_hand(self.program.index[event.node], event.operator)
        super()._retry(event)

    def _skip(self, event: SkipRequested) -> None:
        if event.outputs is not None:
            self._had_hand(self.program.index[event.node], event.operator)
        super()._skip(event)

    # -- what may be done --------------------------------------------------------------------------------------------

    def _decide_refusal(self, name: str, event: TaskDecided) -> ImpossibleMove | None:
        known = self._decisions.get(event.decision_id or "")
        if known is not None:
            if (known["task"], known["action"]) == (event.task, event.action):
                return None
            return ImpossibleMove(name, f"decision {event.decision_id}", "taken by another decision")
        gone = self._not_open(name, event)
        if gone is not None:
            return gone
        task = self.tasks[event.task]
        if event.digest is not None and event.digest != task.digest:
            return ImpossibleMove(name, task.subject, "not what was shown; look at it again")
        objection = task.objection(event.operator, event.groups)
        if objection is not None:
            return ImpossibleMove(name, task.subject, objection)
        if task.has_approved(event.operator):
            return ImpossibleMove(name, task.subject, f"approved by {event.operator} already; others have to decide")
        if event.action not in task.actions:
            return UnacceptableContent(name, f"the actions of this task are {', '.join(task.actions)}")
        return self._content_refusal(name, task, event)

    def _content_refusal(self, name: str, task: OpenTask, event: TaskDecided) -> ImpossibleMove | None:
        given = {"values": event.values, "outputs": event.outputs, "inputs": event.inputs}
        problem = misplaced(event.action, given)
        node = self.program.index[task.node]
        if problem is None and task.kind == APPROVAL:
            form = self._spec(node).get("form")
            problem = form_problem(form, event.values, event.action)
            try:
                self._approved_outputs(task, event)
            except InvalidInputs as invalid:
                problem = problem or invalid.message
        elif problem is None and event.action == "skip":
            return self._lacking(name, node, event.outputs)
        return None if problem is None else UnacceptableContent(name, problem)

    # -- what is done ------------------------------------------------------------------------------------------------

    def _decide_task(self, event: TaskDecided) -> None:
        if self._is_repeated(event):
            return
        task = self.tasks[event.task]
        decision = {"action": event.action, "values": event.values, "outputs": event.outputs, "inputs": event.inputs}
        body = {"decision": without_none({**decision, "notes": event.notes})}
        if event.action == "approve" and len(task.votes) + 1 < task.quorum:
            task.votes.append(without_none({"operator": event.operator, "values": event.values}))
            data = {"operator": event.operator, "action": "approve", "approvals": len(task.votes)}
            data["decisionId"] = event.decision_id
            self._tell_of(task, EventType.HITL_TASK_VOTED, data, body)
            self._remember_decision(event, task)
            return
        data = {"action": event.action, "completedBy": event.operator, "approvals": len(task.votes) + 1}
        data["decisionId"] = event.decision_id
        if task.quorum == 1 or event.action != "approve":
            del data["approvals"]
        self._end_task(task, TaskStatus.COMPLETED, EventType.HITL_TASK_COMPLETED, data, body)
        self._remember_decision(event, task)
        self.task_deciders[task.kind](self, task, event)

    def _approved_outputs(self, task: OpenTask, event: TaskDecided) -> dict[str, Any]:
        """Return the outputs of a human node.

        Raises:
            InvalidInputs: a required output has no value, and the node is not rejected.
        """
        node = self.program.index[task.node]
        form = self._spec(node).get("form")
        values: dict[str, Any] = {}
        for vote in task.votes:
            values.update(with_form_defaults(form, vote.get("values")))
        if event.action != "reject":
            values.update(with_form_defaults(form, event.values))
        else:
            values = dict(event.values or {})
        about = {"decision": event.action, "decidedBy": event.operator, "notes": event.notes}
        outputs = {**self.given.get(node, {}), **(event.outputs or {}), **values, **about}
        if event.action == "reject":
            return outputs
        return apply_ports(self.program.nodes[node].get("outputPorts"), outputs, "output")

    def _approval_decided(self, task: OpenTask, event: TaskDecided) -> None:
        node = self.program.index[task.node]
        self._had_hand(node, *task.voters, event.operator)
        outputs = self._approved_outputs(task, event)
        if event.action == "reject":
            self._reject_node(node, outputs, f"rejected by {event.operator}")
            return
        self._complete_node(node, outputs)

    def _complete_node(self, node: int, outputs: Mapping[str, Any]) -> None:
        self.given.pop(node, None)
        self._task_words.pop(self.program.ids[node], None)
        data = {"attempt": 1, "decision": outputs["decision"]}
        self._move_node(node, NodeStatus.SUCCESS, EventType.NODE_COMPLETED, data, {"outputs": outputs})
        self._light(node, outputs)

    def _reject_node(self, node: int, outputs: Mapping[str, Any], message: str) -> None:
        """Take a rejection: the edges from ``rejected`` are live, or, where there are none, the node fails."""
        if any(self.program.is_rejected_port(edge) for edge in self.program.edges_out[node]):
            self._complete_node(node, outputs)
            return
        details = {"decidedBy": outputs["decidedBy"], "notes": outputs["notes"]}
        self._fail(node, self._error(node, ErrorType.POLICY_VIOLATION, message, **details))

    def _failure_decided(self, task: OpenTask, event: TaskDecided) -> None:
        node = self.program.index[task.node]
        if event.action == "retry":
            self._retry(RetryRequested(task.node, event.inputs, event.operator, event.notes))
        elif event.action == "skip":
            self._skip(SkipRequested(task.node, event.outputs, event.operator, event.notes))
        else:
            self._decided(node, event.operator, event.action)
            self._let_go(node)
            self._give_up(node, task.error or {})
            if self._fatal is None:
                self._fatal = node

    # -- time --------------------------------------------------------------------------------------------------------

    def _remind(self, subject: str) -> None:
        task = self.tasks[subject]
        self._tell_of(task, EventType.HITL_TASK_REMINDED, {"dueAt": task.due_at})

    def _escalate(self, subject: str) -> None:
        task = self.tasks[subject]
        task.move(TaskStatus.PENDING, "escalate")
        task.asked = task.assignee = task.candidates = None
        task.group = self._spec(self.program.index[task.node])["escalation"]["to"]
        self._tell_of(task, EventType.HITL_TASK_ESCALATED, {})

    def _expire(self, subject: str) -> None:
        task = self.tasks[subject]
        node = self.program.index[task.node]
        follows = self._spec(node).get("onExpiry", "fail")
        self._end_task(task, TaskStatus.EXPIRED, EventType.HITL_TASK_EXPIRED, {"action": follows})
        if follows == "skip":
            self._move_node(node, NodeStatus.SKIPPED, EventType.NODE_SKIPPED, {"skipReason": "expired"})
            self._let_go(node)
            self._resolved.extend((edge, DEAD) for edge in self.program.edges_out[node])
        elif follows == "reject":
            about = {"decision": "reject", "decidedBy": None, "notes": None}
            self._reject_node(node, {**self.given.get(node, {}), **about}, "nobody decided in time: rejected")
        else:
            self._fail(node, self._error(node, ErrorType.TIMEOUT, "nobody decided in time"))

    # -- snapshot ----------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return the state as compact JSON; of people only what there is."""
        kept = {
            "taskWords": dict(self._task_words),
            "hands": {node: list(names) for node, names in self._hands.items()},
        }
        return {**super().snapshot(), **{key: value for key, value in kept.items() if value}}

    def _load(self, snapshot: Mapping[str, Any]) -> None:
        super()._load(snapshot)
        self._task_words = dict(snapshot.get("taskWords", {}))
        self._hands = {node: list(names) for node, names in snapshot.get("hands", {}).items()}


People.task_deciders.update({APPROVAL: People._approval_decided, FAILURE: People._failure_decided})
People.wait_types.update({"human": People._ask})
People.alarm_handlers.update({DUE: People._expire, REMINDER: People._remind, ESCALATION: People._escalate})


def _text(value: Any, limit: int) -> str:
    return safe_text(value if isinstance(value, str) else str(value), limit)


def _name(field: str, value: Any, node_id: str) -> str | None:
    """Return the name of a person or group; raises InvalidInputs where it is none."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_NAME or find_unsafe(value) is not None:
        message = f"task/{field} of node {node_id} is no name: it is a text of at most {MAX_NAME} characters"
        raise InvalidInputs(message, {"code": "BAD_NAME"})
    return value
