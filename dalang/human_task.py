"""One open human task: what it asks, who may decide it, and what a decision has to hold.

The state machine (``people.py``) raises and ends tasks; here is what can be said of one by itself. Statuses and moves
stand in ``statuses.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, cast
from uuid import NAMESPACE_OID, UUID, uuid5

from dalang.authority import claimed
from dalang.canonical import compact_json, digest, find_unsafe
from dalang.durations import MAX_DURATION_MS
from dalang.statuses import TASK_MOVES, ImpossibleMove, TaskStatus
from dalang.validation.bounded_schema import Budget, TooCostly, schema_errors
from dalang.validation.report import Steps
from dalang.validation.schema_sentences import sentence
from dalang.wire import Question

APPROVAL, FAILURE, COMPENSATION, INPUT = "approval", "failure", "compensation", "input"
"""Kinds of tasks: of a human node, about a failed node, about an undo that failed, a question of a handler."""

ACTIONS: Mapping[str, tuple[str, ...]] = {
    "approve": ("values",),
    "reject": ("values",),
    "edit": ("values", "outputs"),
    "answer": ("values",),
    "retry": ("inputs",),
    "skip": ("outputs",),
    "abort": (),
    "resolve": (),
    "abandon": (),
}
"""What a decision by each action may hold besides notes."""

FORM_STEPS = 20_000
"""The budget of checking values against a form: some tenths of a second of a workflow task at most."""
_SHOWN_PROBLEMS = 5
MAX_QUESTION_BYTES = 64 * 1024
"""What a handler asks is carried with the events of its run."""


@dataclass(slots=True)
class OpenTask:
    """A task that waits for a person. Times are milliseconds since the epoch; ``node`` is the node's id.

    ``asked`` is the assignee whom the plan or a delegation named; who claims becomes ``assignee``. ``excluded`` may not
    decide (four eyes). ``votes`` are the approvals so far. ``error`` is what a task about a failure is about, ``form``
    that of a question; that of a human node stands in the plan.
    """

    id: str
    node: str
    kind: str
    actions: list[str]
    title: str
    digest: str
    created_at: int
    priority: int = 0
    status: TaskStatus = TaskStatus.PENDING
    asked: str | None = None
    assignee: str | None = None
    group: str | None = None
    candidates: list[str] | None = None
    excluded: list[str] = field(default_factory=list)
    four_eyes: bool = False
    quorum: int = 1
    due_at: int | None = None
    remind_at: int | None = None
    escalate_at: int | None = None
    votes: list[dict[str, Any]] = field(default_factory=list)
    error: Mapping[str, Any] | None = None
    form: Mapping[str, Any] | None = None

    def move(self, to: TaskStatus, event: str) -> None:
        """Change the status; raises ImpossibleMove."""
        if to not in TASK_MOVES[self.status]:
            raise ImpossibleMove(event, self.subject, self.status)
        self.status = to

    @property
    def subject(self) -> str:
        """What refusals call it."""
        return f"task {self.id}"

    @property
    def voters(self) -> list[str]:
        """Who has approved so far."""
        return [vote["operator"] for vote in self.votes]

    def has_approved(self, operator: str) -> bool:
        """Tell whether this person has, under a name that was proven or only claimed."""
        return claimed(operator) in map(claimed, self.voters)

    def objection(self, operator: str, groups: Sequence[str] | None) -> str | None:
        """Return what the task is that ``operator`` may not decide it, or None. ``groups`` None: they are not known."""
        operator = claimed(operator)
        if operator in self.excluded:
            return f"closed to {operator}, who started the run or had a hand in what is decided"
        if self.candidates is not None and operator not in self.candidates:
            return f"reserved to {', '.join(self.candidates[:10])}"
        is_member = groups is not None and self.group in groups
        if self.assignee is not None and operator != self.assignee and not is_member:
            return f"assigned to {self.assignee}"
        if self.assignee is None and self.candidates is None and self.group and groups is not None and not is_member:
            return f"reserved to members of {self.group}"
        return None

    def shown(self) -> dict[str, Any]:
        """Return what a query answers about it."""
        return {
            "taskId": self.id,
            "nodeId": self.node,
            "kind": self.kind,
            "taskStatus": str(self.status),
            "title": self.title,
            "actions": self.actions,
            "assignee": self.assignee,
            "group": self.group,
            "priority": self.priority,
            "createdAt": self.created_at,
            "dueAt": self.due_at,
            "quorum": self.quorum,
            "approvedBy": self.voters,
            "digest": self.digest,
        }

    def snapshot(self) -> dict[str, Any]:
        """Return the task as JSON: what differs from the defaults."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if not (value is None or value is False or value == [])}

    @classmethod
    def restore(cls, snapshot: Mapping[str, Any]) -> OpenTask:
        """Return the task that :meth:`snapshot` was taken of."""
        return cls(**{**snapshot, "status": TaskStatus(snapshot["status"])})


def checked_question(value: Any) -> Question:
    """Return a handler's question, without fields that are not known.

    Raises:
        ValueError: it is none; the text says why.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("text"), str) or not value["text"].strip():
        raise ValueError("it has no text")
    unsafe = find_unsafe(value)
    if unsafe is not None:
        raise ValueError(f"{unsafe[0]} {unsafe[1]}")
    for name, most in (("text", 20_000), ("title", 500), ("assignee", 200), ("group", 200)):
        if name in value and not (isinstance(value[name], str) and 0 < len(value[name]) <= most):
            raise ValueError(f"{name} is a text of 1 to {most:,} characters")
    for name in ("form", "context"):
        if name in value and not isinstance(value[name], Mapping):
            raise ValueError(f"{name} is no object")
    due = value.get("dueMs", 1)
    if type(due) is not int or not 0 < due <= MAX_DURATION_MS:
        raise ValueError("dueMs is a number of milliseconds, at least 1 and at most ten years")
    size = len(compact_json(value))
    if size > MAX_QUESTION_BYTES:
        raise ValueError(f"it has {size:,} bytes; at most {MAX_QUESTION_BYTES:,} are shown to a person")
    return cast(Question, {name: value[name] for name in Question.__annotations__ if name in value})


def task_id(run_id: str, node_id: str, generation: int, number: int) -> str:
    """Return the id of the ``number``-th task (from 0) of a node in a run: the same wherever it is computed."""
    return str(uuid5(_namespace(run_id), f"{node_id}:{generation}:{number}"))


@lru_cache(maxsize=64)
def _namespace(run_id: str) -> UUID:
    try:
        return UUID(run_id)
    except ValueError:  # runs of tests and rehearsals
        return uuid5(NAMESPACE_OID, run_id)


def digest_of(shown: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what is shown, in canonical JSON; of what has none (NaN from a foreign worker) another."""
    if find_unsafe(shown) is None:
        return digest(shown)
    return hashlib.sha256(json.dumps(shown, sort_keys=True, default=str).encode("ascii")).hexdigest()


def with_form_defaults(form: Mapping[str, Any] | None, values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``values`` with the defaults of the form's top-level properties for what is not given."""
    filled = dict(values or {})
    properties = (form or {}).get("properties")
    for name, schema in properties.items() if isinstance(properties, Mapping) else ():
        if name not in filled and isinstance(schema, Mapping) and "default" in schema:
            filled[name] = schema["default"]
    return filled


def form_problems(
    form: Mapping[str, Any] | None, values: Mapping[str, Any] | None, action: str
) -> list[tuple[str, Steps, str]]:
    """Return what is wrong with the ``values`` of a decision: code, place in the values, sentence; the first ones.

    The form's defaults are filled in, and who rejects is asked for nothing that is missing.
    """
    if form is None:
        return []
    schema = {key: value for key, value in form.items() if key != "required"} if action == "reject" else form
    found: list[tuple[str, Steps, str]] = []
    try:
        for error in schema_errors(schema, with_form_defaults(form, values), Budget(FORM_STEPS)):
            found.append(sentence(error))
            if len(found) == _SHOWN_PROBLEMS:
                break
    except (TooCostly, RecursionError):
        return [("SCHEMA_TOO_COSTLY", (), "Checking the values against the form takes too many steps.")]
    except Exception as error:  # a form that validation would have refused: never a stuck workflow
        return [("BAD_FORM", (), f"The form cannot be used as a schema ({type(error).__name__}).")]
    return found


def form_problem(form: Mapping[str, Any] | None, values: Mapping[str, Any] | None, action: str) -> str | None:
    """Return what :func:`form_problems` finds in a sentence, or None."""
    found = form_problems(form, values, action)
    return " ".join(f"values{''.join(f'/{step}' for step in steps)}: {text}" for _, steps, text in found) or None


def misplaced(action: str, given: Mapping[str, Any]) -> str | None:
    """Return what a decision by ``action`` holds that it does not take, or lacks, in a sentence; or None.

    ``given`` has values, outputs and inputs, None where they are not given.
    """
    taken = ACTIONS[action]
    for part, value in given.items():
        if value is not None and part not in taken:
            return f"{action} takes no {part}"
    return "an edit gives outputs" if action == "edit" and given["outputs"] is None else None
