"""Human nodes: that what they say of their task can come true."""

from __future__ import annotations

from dalang.durations import MAX_DURATION_MS
from dalang.plan import Node
from dalang.plan_human import HumanTask
from dalang.validation.input_schema import schema_problems
from dalang.validation.report import Problems
from dalang.validation.structure import Draft, NodeAt

TASK_TEXTS = {
    "title": "title",
    "description": "description",
    "assignee": "assignee",
    "candidate_group": "candidateGroup",
}
"""The fields that are templates, and their wire names."""


def check_human_tasks(draft: Draft, problems: Problems) -> None:
    """Check the task of every human node, and that no other node has one."""
    for node in draft.nodes:
        if node.model is None:
            continue
        if node.model.type == "human":
            _check_ignored(node, node.model, problems)
            if node.model.task is not None:
                _Task(node, node.model.task, problems).check()
        elif node.model.task is not None:
            message = f"`task` is what a human node asks; `{node.id}` is of type {node.model.type} and asks nobody."
            problems.error("TASK_WITHOUT_PERSON", (*node.steps, "task"), message, node.id)


def _check_ignored(node: NodeAt, model: Node, problems: Problems) -> None:
    given = {"handler": model.handler, "retryPolicy": model.retry_policy, "fallback": model.fallback}
    for name, value in given.items():
        if value is not None:
            message = f"`{name}` has no effect on a human node: no handler is called."
            problems.warning("IGNORED_FIELD", (*node.steps, name), message, node.id)
    if model.timeouts.model_fields_set:
        message = "`timeouts` have no effect on a human node; `task.due` says until when it waits."
        problems.warning("IGNORED_FIELD", (*node.steps, "timeouts"), message, node.id)


class _Task:
    """The task of one node."""

    def __init__(self, node: NodeAt, task: HumanTask, problems: Problems) -> None:
        self._node = node
        self._task = task
        self._problems = problems

    def check(self) -> None:
        self._durations()
        self._people()
        if self._task.form is not None:
            for steps, message in schema_problems(self._task.form, "The values of a form"):
                self._error("BAD_FORM", ("form", *steps), message)

    def _durations(self) -> None:
        task = self._task
        after = task.escalation.after if task.escalation else None
        for steps, value in ((("due",), task.due), (("reminder",), task.reminder), (("escalation", "after"), after)):
            if value is not None and value > MAX_DURATION_MS:
                self._error("BAD_DURATION", steps, "A duration is at most ten years.")
            elif value == 0:
                self._error("ZERO_DURATION", steps, "0 leaves no time for anything; leave the field out.")
        if task.reminder is not None and task.due is None:
            self._error("BAD_TASK", ("reminder",), "`reminder` is a time before the task is due; give it `due`.")
        if "on_expiry" in task.model_fields_set and task.due is None:
            self._error("BAD_TASK", ("onExpiry",), "Without `due` the task never expires.")
        if task.reminder is not None and task.due is not None and task.reminder >= task.due:
            self._error("BAD_TASK", ("reminder",), "`reminder` is shorter than `due`: it comes before the task is due.")
        if after is not None and task.due is not None and after >= task.due:
            self._error(
                "BAD_TASK", ("escalation", "after"), "`after` is shorter than `due`: then the task has expired."
            )

    def _people(self) -> None:
        task = self._task
        names = task.candidates or ()
        if len(set(names)) < len(names):
            self._error("BAD_TASK", ("candidates",), "A candidate is named twice.")
        if any(not name or len(name) > 200 for name in names):
            self._error("BAD_TASK", ("candidates",), "A candidate's name has 1 to 200 characters.")
        if names and task.quorum > len(set(names)):
            message = f"{task.quorum} people must approve, but only {len(set(names))} may; lower `quorum`."
            self._error("BAD_TASK", ("quorum",), message)
        if task.quorum > 1 and task.assignee is not None:
            message = "One assignee cannot be several people; give `candidateGroup` or `candidates` instead."
            self._error("BAD_TASK", ("assignee",), message)
        if names and task.assignee is not None and "${" not in task.assignee and task.assignee not in names:
            self._error("BAD_TASK", ("assignee",), "The assignee is not among the candidates, so nobody could decide.")

    def _error(self, code: str, steps: tuple[str | int, ...], message: str) -> None:
        self._problems.error(code, (*self._node.steps, "task", *steps), message, self._node.id)
