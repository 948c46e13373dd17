"""What a node says of the agent it calls, and what the agent's answers mean."""

from __future__ import annotations

from typing import Any

import pytest

from dalang.activities.a2a.call import call_of, call_of_agent, context_id, message_id, parts_of, run_uuid
from dalang.activities.a2a.meaning import (
    PLAIN_FORM,
    answer_of,
    content_of,
    failure_of,
    has_message,
    mark_of,
    outputs_of,
    question_of,
    state_of,
)
from dalang.activities.a2a.wayang import outputs_of as routed
from dalang.activities.a2a.wayang import payload_of
from dalang.errors import ErrorType
from dalang.nodes import InvalidInput, NodeContext, ToolError
from dalang.validation import validate

URL = "https://agents.example/"


def task(state: str, *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    message = {"messageId": "s1", "role": "ROLE_AGENT", "parts": list(parts)}
    return {"id": "t", "status": {"state": f"TASK_STATE_{state}", **({"message": message} if parts else {})}, **more}


def test_what_is_no_option_is_what_is_sent() -> None:
    """Where there is no message; with one nothing else is."""
    assert call_of({"url": URL, "mode": "poll", "a": 1, "b": {}}).rest == {"a": 1, "b": {}}
    call = call_of_agent({"url": URL, "protocol": "wayang", "target": "t"}, {"url": "http://elsewhere", "x": 1})
    assert (call.url, call.message, call.target) == (URL, {"url": "http://elsewhere", "x": 1}, "t")
    assert call_of_agent({"url": URL}, {"message": "hello"}).message == "hello"


@pytest.mark.parametrize(
    "inputs",
    [{}, {"url": "ftp://x"}, {"url": URL, "mode": "fast"}, {"url": URL, "pollInterval": "0s"},
     {"url": URL, "headers": 1}, {"url": URL, "protocol": "smtp"}, {"url": URL, "person": {"due": -1}}],
)  # fmt: skip
def test_inputs_that_are_wrong_are_refused(inputs: dict[str, Any]) -> None:
    """As VALIDATION_ERROR, before anything was sent."""
    with pytest.raises(InvalidInput) as refused:
        call_of(inputs)
    assert refused.value.no_effect


@pytest.mark.parametrize(
    ("inputs", "pointer", "code"),
    [
        ({}, "", "MISSING_INPUT"),
        ({"url": "agents.example"}, "/url", "BAD_INPUT"),
        ({"url": URL, "protocol": "wayang"}, "", "MISSING_INPUT"),
        ({"url": URL, "protocol": "smtp"}, "/protocol", "BAD_INPUT"),
        ({"url": URL, "mode": "fast"}, "/mode", "BAD_INPUT"),
        ({"url": URL, "patience": "soon"}, "/patience", "BAD_INPUT"),
        ({"url": URL, "headers": {"a": 1}}, "/headers", "BAD_INPUT"),
        ({"url": URL, "metadata": []}, "/metadata", "BAD_INPUT"),
        ({"url": URL, "person": {"due": "x"}}, "/person", "BAD_INPUT"),
        ({"url": URL, "person": {"boss": "x"}}, "/person", "BAD_INPUT"),
        ({"url": URL, "cancel": "yes"}, "/cancel", "BAD_INPUT"),
        ({"url": URL, "skill": ""}, "/skill", "BAD_INPUT"),
        ({"url": URL, "message": "hello", "pollIntervall": "1s"}, "/pollIntervall", "IGNORED_INPUT"),
    ],
)
def test_a_plan_says_it_before_it_runs(inputs: dict[str, Any], pointer: str, code: str) -> None:
    """Each problem at its place; what holds an expression is seen at run time."""
    plan = {"name": "p", "nodes": [{"nodeId": "n", "type": "a2a", "inputs": inputs}]}
    assert [(one.pointer, one.code) for one in validate(plan).problems] == [(f"/nodes/0/inputs{pointer}", code)]
    inputs = {"url": "${inputs.url}", "mode": "${inputs.mode}", "anything": {"else": 1}}
    plan = {"name": "p", "inputs": {}, "nodes": [{"nodeId": "n", "type": "a2a", "inputs": inputs}]}
    assert validate(plan).ok


def test_parts_of_a_message() -> None:
    """Texts, objects as data, parts as they are; what only looks like a part is data."""
    assert parts_of("hello") == [{"text": "hello"}]
    assert parts_of({"a": 1}) == [{"data": {"a": 1}}]
    file = {"url": "https://x/y", "mediaType": "text/plain"}
    assert parts_of([file, {"text": "t", "data": 1}, {"text": 5}, {"data": [1]}, 3]) == [
        file,
        {"data": {"text": "t", "data": 1}},
        {"data": {"text": 5}},
        {"data": [1]},
        {"data": 3},
    ]
    assert parts_of([]) == [{"text": ""}]


def test_ids_are_those_of_the_work() -> None:
    """The context is the run's, also of a redrive; each try has a message of its own."""

    def ctx(key: str, node: str) -> NodeContext:
        return NodeContext(node, node, "a2a", "other-run", "t", {}, key)

    contexts = {context_id(ctx(key, node)) for key, node in (("r:a:0:0", "a"), ("r:b:0:2", "b"), ("r:a:0:0:undo", "a"))}
    assert len(contexts) == 1
    assert contexts != {context_id(ctx("r2:a:0:0", "a"))}
    assert message_id("k", 0) == message_id("k", 0) != message_id("k", 1)
    assert run_uuid("not-a-uuid") == run_uuid("not-a-uuid")


def test_artifacts_are_outputs() -> None:
    """Objects merge, other data is listed, texts are joined, whole numbers are whole; else the last word counts."""
    artifacts = [
        {"parts": [{"data": {"n": 3.0, "deep": [{"m": 2.0, "h": 0.5}]}}, {"text": "one"}]},
        {"parts": [{"text": "two"}, {"data": [1.0]}, {"raw": "Mw==", "filename": "f"}]},
    ]
    assert outputs_of(task("COMPLETED", {"text": "done"}, artifacts=artifacts)) == {
        "n": 3,
        "deep": [{"m": 2, "h": 0.5}],
        "text": "one\ntwo",
        "data": [[1]],
        "files": [{"name": "f", "base64": "Mw=="}],
    }
    assert outputs_of(task("COMPLETED", {"text": "done"})) == {"text": "done"}
    assert outputs_of(task("COMPLETED")) == {}
    with pytest.raises(ToolError):
        content_of([{"data": {"a": float("nan")}}])


@pytest.mark.parametrize("state", ["DANCING", "", "UNSPECIFIED"])
def test_a_state_that_is_none_is_rubbish(state: str) -> None:
    """TOOL_ERROR."""
    with pytest.raises(ToolError):
        state_of(task(state))
    with pytest.raises(ToolError):
        state_of({})


@pytest.mark.parametrize(
    ("state", "kind", "retryable"),
    [
        ("FAILED", ErrorType.TOOL_ERROR, True),
        ("REJECTED", ErrorType.TOOL_ERROR, False),
        ("CANCELED", ErrorType.TOOL_ERROR, False),
        ("AUTH_REQUIRED", ErrorType.POLICY_VIOLATION, False),
    ],
)
def test_failures(state: str, kind: ErrorType, retryable: bool) -> None:
    """With the agent's words, its name and the task."""
    failure = failure_of(task(state, {"text": "because"}), "ada")
    assert (failure.type, failure.retryable) == (kind, retryable)
    assert failure.message.endswith(": because")
    assert failure.details == {"agent": "ada", "taskId": "t", "state": state}


def test_questions() -> None:
    """The agent's form if it is one, else a text is asked for; what else it says is shown."""
    form = {"type": "object", "properties": {"seat": {"type": "string"}}}
    asked = question_of(
        task("INPUT_REQUIRED", {"text": "Seat?"}, {"data": {"form": form, "free": 2.0}}), "ada", group="g"
    )
    assert (asked.question, asked.form, asked.context, asked.group) == ("Seat?", form, {"agent": "ada", "free": 2}, "g")
    plain = question_of(task("INPUT_REQUIRED", {"data": {"schema": {"type": "nonsense"}}}), "ada")
    assert plain.question
    assert plain.form == PLAIN_FORM
    assert answer_of({"answer": "aisle"}) == "aisle"
    assert answer_of({"answer": "aisle", "n": 1}) == {"answer": "aisle", "n": 1}
    large = question_of(task("INPUT_REQUIRED", {"data": {"x": "y" * 100_000}}), "ada")
    assert large.context == {"agent": "ada"}


def test_marks_and_messages() -> None:
    """What tells one question from the next, and whether a message came."""
    assert mark_of(task("INPUT_REQUIRED", {"text": "?"})) == "s1"
    assert mark_of({"status": {"state": "x", "timestamp": "now"}}) == "now"
    assert mark_of({}) is None
    assert has_message({"history": [{"messageId": "a"}, {}]}, ["a", "b"])
    assert not has_message({}, ["a"])


def test_wayangs_answers() -> None:
    """A result is the outputs; what is no answer to this message is refused."""
    assert routed({"messageId": "m", "success": True, "result": {"a": 1}, "error": None}, "m", "t") == {"a": 1}
    assert routed({"success": True}, "m", "t") == {}
    assert payload_of("words") == {"message": "words"}
    for answer in ([], {"success": 1}, {"success": True, "messageId": "x"}, {"success": True, "result": [1]}):
        with pytest.raises(ToolError):
            routed(answer, "m", "t")
    with pytest.raises(ToolError, match="no ink") as failed:
        routed({"success": False, "error": "no ink"}, "m", "t")
    assert failed.value.retryable
