"""What an agent's answers mean: tasks and messages, in the protocol's JSON, as outputs, failures and questions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from dalang.canonical import MAX_INTEGER, compact_json, find_unsafe, safe_text
from dalang.nodes import AskPerson, NodeFailure, PolicyViolation, ToolError
from dalang.validation.input_schema import schema_problems

STATE = "TASK_STATE_"
WORKING = frozenset({"SUBMITTED", "WORKING"})
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELED", "REJECTED"})
RESTING = ENDED | {"INPUT_REQUIRED", "AUTH_REQUIRED"}
"""States in which the agent does nothing more by itself."""
ANSWER = "answer"
PLAIN_FORM: Mapping[str, Any] = {
    "type": "object",
    "properties": {ANSWER: {"type": "string", "title": "Answer"}},
    "required": [ANSWER],
}
"""What is asked of a person where the agent does not say what it wants: a text."""
MAX_CONTEXT_BYTES = 32 * 1024
MAX_FORM_BYTES = 16 * 1024


def state_of(task: Mapping[str, Any]) -> str:
    """Return the state of a task without its prefix; raises ToolError where it has none."""
    status = task.get("status")
    state = status.get("state") if isinstance(status, Mapping) else None
    name = str(state).removeprefix(STATE)
    if name not in RESTING | WORKING:
        raise ToolError(f"the agent answered a task in no known state: {safe_text(str(state), 100)}")
    return name


def words_of(task: Mapping[str, Any]) -> str:
    """Return what the agent says about a task's state, or nothing."""
    return safe_text("\n".join(_texts(_status_parts(task))), 20_000)


def outputs_of(task: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a finished task put out: its artifacts, or where there are none what was said last."""
    parts = [part for artifact in task.get("artifacts") or () for part in artifact.get("parts") or ()]
    return content_of(parts or _status_parts(task))


def content_of(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return parts as outputs: objects merge, other data is ``data``, texts are ``text``, files are ``files``.

    Raises:
        ToolError: there is something among them that is not JSON as everybody reads it.
    """
    parts = list(parts)
    found: dict[str, Any] = {}
    texts, files = _texts(parts), [_file(part) for part in parts if "url" in part or "raw" in part]
    if texts:
        found["text"] = "\n".join(texts)
    if files:
        found["files"] = files
    for part in parts:
        if "data" in part:
            value = whole_numbers(part["data"])
            if isinstance(value, dict):
                found.update(value)
            else:
                found.setdefault("data", []).append(value)
    unsafe = find_unsafe(found)
    if unsafe is not None:
        raise ToolError(f"the agent answered what is not JSON: {unsafe[0]} {unsafe[1]}")
    return found


def whole_numbers(value: Any) -> Any:
    """Return data with whole numbers as such: the protocol's data has only floating point."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INTEGER:
        return int(value)
    if isinstance(value, dict):
        return {key: whole_numbers(item) for key, item in value.items()}
    return [whole_numbers(item) for item in value] if isinstance(value, list) else value


def failure_of(task: Mapping[str, Any], agent: str) -> NodeFailure:
    """Return the failure that a task means which has ended without success, or waits for what we do not have."""
    state, words = state_of(task), words_of(task)
    said = f": {words}" if words else ""
    details = {"agent": agent, "taskId": str(task.get("id", ""))[:200], "state": state}
    if state == "AUTH_REQUIRED":
        return PolicyViolation(f"the agent wants to be shown who asks{said}", details=details)
    what = {
        "FAILED": "the agent failed",
        "REJECTED": "the agent does not take the task",
        "CANCELED": "the agent has cancelled the task",
    }.get(state, f"the task is {state}")
    return ToolError(safe_text(what + said, 2_000), retryable=state == "FAILED", details=details)


def question_of(task: Mapping[str, Any], agent: str, **whom: Any) -> AskPerson:
    """Return the question that a task means which needs input; ``whom`` are fields of the question.

    An agent says which values it wants with a JSON Schema under ``form`` or ``schema`` in a data part.
    """
    parts = _status_parts(task)
    said = content_of(part for part in parts if "text" not in part)
    form = next((found for name in ("form", "schema") if (found := _form(said, name)) is not None), None)
    context = said if len(compact_json(said)) <= MAX_CONTEXT_BYTES else {}
    words = words_of(task).strip() or "The agent needs an answer to go on."
    return AskPerson(words, form=form or PLAIN_FORM, context={"agent": agent, **context}, **whom)


def _form(said: dict[str, Any], name: str) -> Mapping[str, Any] | None:
    given = said.get(name)
    if not isinstance(given, dict) or len(compact_json(given)) > MAX_FORM_BYTES or schema_problems(given):
        return None
    said.pop(name)
    return given


def answer_of(values: Mapping[str, Any]) -> Any:
    """Return a person's answer as the content of a message: a text where a text was asked for."""
    only = values.get(ANSWER)
    return only if isinstance(only, str) and set(values) == {ANSWER} else dict(values)


def has_message(task: Mapping[str, Any], message_ids: Collection[str]) -> bool:
    """Tell whether a task has taken one of these messages."""
    return any(message.get("messageId") in message_ids for message in task.get("history") or ())


def mark_of(task: Mapping[str, Any]) -> str | None:
    """Return what tells a question of the agent from the next one, if it says so."""
    status = task.get("status") or {}
    found = (status.get("message") or {}).get("messageId") or status.get("timestamp")
    return str(found)[:200] if found else None


def _status_parts(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    message = (task.get("status") or {}).get("message") or {}
    return list(message.get("parts") or ())


def _texts(parts: Iterable[Mapping[str, Any]]) -> list[str]:
    return [part["text"] for part in parts if isinstance(part.get("text"), str) and part["text"]]


def _file(part: Mapping[str, Any]) -> dict[str, Any]:
    kept = {"name": part.get("filename"), "mediaType": part.get("mediaType")}
    kept.update({"url": part["url"]} if "url" in part else {"base64": part["raw"]})
    return {name: value for name, value in kept.items() if value}
