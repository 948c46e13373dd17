"""What a run is to an A2A client: a task with a state, a message about it, artifacts. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from a2a.types import Artifact, Task, TaskState
from google.protobuf.json_format import ParseDict, ParseError

from dalang.canonical import compact_json
from dalang.human_task import ACTIONS
from dalang.statuses import RUN_ENDS, RunStatus
from dalang.store.human_tasks import Task as HumanTask
from dalang.store.runs import Run

AUTH_FLAG = "auth-required"
"""``metadata: {a2a: {state: auth-required}}`` of a human node: what it asks for is an authorization."""
ARTIFACTS = "artifacts"
"""A plan's output of this name that is a list of A2A artifacts is handed out as it is."""
JSON, TEXT = "application/json", "text/plain"
TEXT_INPUT = "text"
"""The input, or value of a form, that takes what is said as text."""

_S = TaskState
STATES: Mapping[RunStatus, TaskState] = {
    RunStatus.PENDING: _S.TASK_STATE_SUBMITTED,
    RunStatus.VALIDATED: _S.TASK_STATE_SUBMITTED,
    RunStatus.RUNNING: _S.TASK_STATE_WORKING,
    RunStatus.PAUSED: _S.TASK_STATE_WORKING,
    RunStatus.REPLANNING: _S.TASK_STATE_WORKING,
    RunStatus.COMPENSATING: _S.TASK_STATE_WORKING,
    RunStatus.AWAITING_HITL: _S.TASK_STATE_INPUT_REQUIRED,
    RunStatus.COMPLETED: _S.TASK_STATE_COMPLETED,
    RunStatus.FAILED: _S.TASK_STATE_FAILED,
    RunStatus.CANCELLED: _S.TASK_STATE_CANCELED,
}
INTERRUPTED = frozenset({_S.TASK_STATE_INPUT_REQUIRED, _S.TASK_STATE_AUTH_REQUIRED})
_SENTENCES = {
    RunStatus.PAUSED: "The run is paused; an operator has to resume it.",
    RunStatus.REPLANNING: "The plan of the run is being changed.",
    RunStatus.COMPENSATING: "What the run did is being undone.",
}


def statuses_of(state: TaskState) -> list[RunStatus]:
    """Return the statuses of runs that may be in this state."""
    wanted = _S.TASK_STATE_INPUT_REQUIRED if state == _S.TASK_STATE_AUTH_REQUIRED else state
    return [status for status, one in STATES.items() if one == wanted]


def instant(at: datetime) -> str:
    """Return a time as A2A writes it: ISO 8601 in UTC, with Z."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def status_of(
    run_id: Any,
    context_id: str,
    status: RunStatus,
    at: datetime,
    *,
    questions: Sequence[HumanTask] = (),
    auth_nodes: frozenset[str] = frozenset(),
    text: str | None = None,
) -> dict[str, Any]:
    """Return the A2A status of a run that has ``status`` since ``at``; ``questions`` are its open human tasks."""
    state, parts = STATES[status], []
    if status == RunStatus.AWAITING_HITL:
        if questions and all(one.node_id in auth_nodes for one in questions):
            state = _S.TASK_STATE_AUTH_REQUIRED
        parts = [part for one in questions for part in question(one)]
    elif text or status in _SENTENCES:
        parts = [{"text": text or _SENTENCES[status]}]
    told: dict[str, Any] = {"state": TaskState.Name(state), "timestamp": instant(at)}
    if parts:
        told["message"] = agent_message(run_id, context_id, f"{status}/{told['timestamp']}", parts)
    return told


def agent_message(run_id: Any, context_id: str, key: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a message of the agent; its id derives from the run and ``key``: it is the same in every answer."""
    return {
        "messageId": str(uuid5(NAMESPACE_URL, f"dalang:a2a:{run_id}/{key}")),
        "contextId": context_id,
        "taskId": str(run_id),
        "role": "ROLE_AGENT",
        "parts": parts,
    }


def question(task: HumanTask) -> list[dict[str, Any]]:
    """Return what an open human task asks: for people, and as data that an answer can be made of."""
    data = {
        "humanTask": str(task.task_id),
        "kind": task.kind,
        "title": task.title,
        "actions": task.actions,
        "form": answer_form(task),
        "context": task.context,
        "error": task.error,
        "digest": task.digest,
    }
    sentence = task.title if not task.description else f"{task.title}\n\n{task.description}"
    return [{"text": sentence}, {"data": {key: value for key, value in data.items() if value is not None}}]


def answer_form(task: HumanTask) -> Any:
    """Return the schema of the data part that answers: of the values that a question asks for, else of a decision.

    What was decided about goes back with the decision, as a default, so that nothing else is decided.
    """
    if is_question(task):
        return task.form
    form = dict(task.form) if isinstance(task.form, Mapping) else {}
    shared = {"$defs": form.pop("$defs")} if "$defs" in form else {}
    values = {key: value for key, value in form.items() if key not in ("$id", "$schema")}
    said = compact_json(values) + compact_json(shared)
    if said.count(b'"$ref":') != said.count(b'"$ref":"#/$defs/') or b'"$dynamicRef":' in said:
        values, shared = {}, {}  # it refers to its own root, which is another one here
    fixed = {"humanTask": str(task.task_id), "digest": task.digest}
    properties = {
        "action": {"enum": task.actions},
        "notes": {"type": "string"},
        **{name: {"type": "object"} for action in task.actions for name in ACTIONS.get(action, ())},
        **{name: {"const": value, "default": value} for name, value in fixed.items()},
    }
    if values and "values" in properties:
        properties["values"] = values
    return {"type": "object", "properties": properties, "required": ["action"], **shared}


def is_question(task: HumanTask) -> bool:
    """Tell whether a human task asks for an answer, not for a decision: a handler asks, or its form has a ``text``."""
    properties = task.form.get("properties") if isinstance(task.form, Mapping) else None
    asks_words = isinstance(properties, Mapping) and TEXT_INPUT in properties and "approve" in task.actions
    return asks_words or "answer" in task.actions


def sentence_of(run: Run) -> str | None:
    """Return why a run is where it is."""
    if run.status == RunStatus.FAILED:
        return run.error_message or run.reason
    if run.status in (RunStatus.CANCELLED, RunStatus.PAUSED):
        return run.reason
    return None


def artifacts_of(outputs: Any, modes: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the outputs of a run as artifacts; ``modes`` are the media types that the client says it accepts."""
    if not isinstance(outputs, Mapping) or not outputs:
        return []
    given = outputs.get(ARTIFACTS)
    if isinstance(given, list) and _are_artifacts(given):
        made = [{"artifactId": f"{ARTIFACTS}-{at}", **one} for at, one in enumerate(given, 1)]
        return made + artifacts_of({key: value for key, value in outputs.items() if key != ARTIFACTS}, modes)
    only = next(iter(outputs.values())) if len(outputs) == 1 else None
    if isinstance(only, str):
        part: dict[str, Any] = {"text": only, "mediaType": TEXT}
    elif modes and JSON not in modes and TEXT in modes:
        part = {"text": compact_json(outputs).decode(), "mediaType": TEXT}
    else:
        part = {"data": dict(outputs), "mediaType": JSON}
    return [{"artifactId": "outputs", "name": "outputs", "parts": [part]}]


def _are_artifacts(given: list[Any]) -> bool:
    for one in given:
        if not isinstance(one, Mapping) or not one.get("parts"):
            return False
        try:
            ParseDict(dict(one), Artifact())
        except (ParseError, TypeError, ValueError):
            return False
    return True


def task_of(
    run: Run,
    context_id: str,
    *,
    questions: Sequence[HumanTask] = (),
    auth_nodes: frozenset[str] = frozenset(),
    history: Iterable[Mapping[str, Any]] = (),
    artifacts: bool = True,
    modes: Sequence[str] = (),
) -> Task:
    """Return the task that a run is."""
    status = RunStatus(run.status)
    facts = {"questions": questions, "auth_nodes": auth_nodes, "text": sentence_of(run)}
    document: dict[str, Any] = {
        "id": str(run.run_id),
        "contextId": context_id,
        "status": status_of(run.run_id, context_id, status, run.last_updated_at, **facts),  # type: ignore[arg-type]  # a dict of keywords
        "history": [dict(one) for one in history],
        "metadata": {"plan": run.plan_name, "planId": str(run.plan_id), "planVersion": run.plan_version},
    }
    if artifacts and status in RUN_ENDS:
        document["artifacts"] = artifacts_of(run.outputs, modes)
    return ParseDict(document, Task())
