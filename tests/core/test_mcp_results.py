"""What MCP servers answer, as outputs and errors; the file of named servers; the inputs of ``mcp`` nodes in plans."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dalang import watched_file
from dalang.activities.mcp.results import argument_problems, error_of, failure_of, outputs_of
from dalang.activities.mcp.servers import NamedServers, as_given, read_servers
from dalang.errors import InvalidDocument
from dalang.nodes import InvalidInput, PolicyViolation
from dalang.settings import SettingsError
from dalang.validation import validate

TEXT = {"type": "text", "text": "four"}
IMAGE = {"type": "image", "data": "AAAA", "mimeType": "image/png"}


@pytest.mark.parametrize(
    ("result", "outputs"),
    [
        ({"content": [TEXT]}, {"text": "four"}),
        ({"content": [TEXT, {"type": "text", "text": "five\x00"}]}, {"text": "four\nfive\ufffd"}),
        ({"content": []}, {}),
        ({"content": [TEXT], "structuredContent": {"n": 4}}, {"text": "four", "n": 4}),
        ({"content": [TEXT], "structuredContent": {"text": "IV"}}, {"text": "IV"}),
        ({"content": [TEXT], "structuredContent": [4]}, {"text": "four", "result": [4]}),
        ({"content": [TEXT, IMAGE]}, {"text": "four", "content": [IMAGE]}),
    ],
)
def test_results_become_outputs(result: dict[str, Any], outputs: dict[str, Any]) -> None:
    """Structured content field by field, texts together, other content as it is."""
    assert outputs_of(result) == outputs


def test_the_word_of_a_tool_that_fails_is_the_message() -> None:
    """What it says in structure is in the details; one that says nothing is named."""
    failure = failure_of({"content": [TEXT], "structuredContent": {"n": 4}, "isError": True}, "count")
    assert (failure.type, failure.retryable, failure.message) == ("TOOL_ERROR", False, "four")
    assert failure.details == {"tool": "count", "structured": {"n": 4}}
    assert "count" in failure_of({"content": []}, "count").message


def test_arguments_are_checked_with_pointers_into_the_inputs() -> None:
    """Every problem at once, also by a schema that names an older dialect."""
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"count": {"type": "integer"}, "a/b": {"$ref": "#/definitions/x"}},
        "definitions": {"x": {"maxLength": 1}},
        "required": ["unit"],
    }
    found = argument_problems(schema, {"count": "2", "a/b": "xx"})
    assert {(one["pointer"], one["code"]) for one in found} == {
        ("/inputs/arguments/count", "INVALID_INPUT"),
        ("/inputs/arguments/a~1b", "INVALID_INPUT"),
        ("/inputs/arguments", "MISSING_INPUT"),
    }
    assert argument_problems(schema, {"count": 2, "unit": "m"}) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"x": {"pattern": "(?=a)a"}}},
        {"type": "object", "properties": {"x": {"$ref": "https://elsewhere.example/schema"}}},
        {"type": "object", "properties": {"x": {"type": "wat"}}},
        {"type": "object", "properties": 7},
        {"type": "array"},
        {},
    ],
)
def test_a_schema_that_cannot_be_checked_stops_no_call(schema: dict[str, Any]) -> None:
    """The server checks itself; what is wrong with its schema is not the plan's fault."""
    if schema.get("type") != "array":
        assert argument_problems(schema, {"x": "b"}) == []


def test_a_schema_that_would_take_for_ever_ends() -> None:
    """References that double at each level use up the budget."""
    defs = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    schema = {"type": "object", "$defs": {**defs, "d40": {}}, "$ref": "#/$defs/d0"}
    assert argument_problems(schema, {}) == []


@pytest.mark.parametrize(
    ("code", "status", "called", "kind", "retryable", "no_effect"),
    [
        (-32000, None, True, "NETWORK_ERROR", True, False),
        (-32000, None, False, "NETWORK_ERROR", True, True),
        (-32001, None, True, "TIMEOUT", True, False),
        (-32602, None, True, "VALIDATION_ERROR", False, False),
        (-32700, None, True, "TOOL_ERROR", False, False),
        (-32603, None, True, "TOOL_ERROR", False, False),
        (-32042, None, True, "TOOL_ERROR", False, False),
        (-32603, 503, False, "NETWORK_ERROR", True, True),
        (-32603, 500, True, "TOOL_ERROR", True, False),
        (-32603, 429, False, "RESOURCE_EXHAUSTED", True, True),
        (-32603, 408, True, "TIMEOUT", True, False),
        (-32603, 401, False, "POLICY_VIOLATION", False, True),
        (-32600, 404, True, "NETWORK_ERROR", True, False),
        (-32601, 404, False, "TOOL_ERROR", False, False),
    ],
)
def test_errors_of_the_protocol_have_their_types(
    code: int, status: int | None, called: bool, kind: str, retryable: bool, no_effect: bool
) -> None:
    """By the code, or by the HTTP status that stands behind it."""
    failure = error_of(code, "oops", None, server="the server", tool="t", called=called, status=status)
    assert (failure.type, failure.retryable, failure.no_effect) == (kind, retryable, no_effect)
    assert failure.details["code"] == code


def test_the_file_of_servers_tells_all_its_problems() -> None:
    """One that is half read would be a surprise later."""
    text = """
mcpServers:
  a: {command: x, url: "https://x.example/"}
  b: {}
  c: {url: "ftp://x"}
  d: {url: "https://x.example/", args: [1]}
  e: {command: x, headers: {a: b}}
  f: {command: x, type: http}
  g: {command: x, timeout: 3}
"""
    with pytest.raises(InvalidDocument) as caught:
        read_servers(text)
    said = [one.pointer for one in caught.value.problems]
    for name in "abcdefg":
        assert any(one.startswith(f"/mcpServers/{name}") for one in said), name
    assert "either `command`" in caught.value.problems[0].message


def test_servers_are_read_again_when_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the better; a file that cannot be read leaves them as they were. A folder is that of the file."""
    monkeypatch.setattr(watched_file, "LOOK_SECONDS", 0)
    path = tmp_path / "servers.yaml"
    path.write_text("mcpServers: {a: {command: run, cwd: sub}, b: {url: 'https://b.example/', tenants: [acme]}}")
    servers = NamedServers(path)
    assert servers.get("a", "globex").cwd == str(tmp_path / "sub")
    assert servers.get("b", "acme").url == "https://b.example/"
    with pytest.raises(PolicyViolation):
        servers.get("b", "globex")
    with pytest.raises(InvalidInput, match=r"there are: a\)"):
        servers.get("c", "globex")
    path.write_text("mcpServers: {c: {command: run}, d: 7}")
    os.utime(path, ns=(1, 1))
    assert servers.get("a", "acme")
    path.write_text("mcpServers: {c: {command: run}}")
    os.utime(path, ns=(2, 2))
    assert servers.get("c", "acme").cwd == str(tmp_path / ".")
    with pytest.raises(SettingsError, match="DALANG_MCP_SERVERS_FILE"):
        NamedServers(tmp_path / "none.yaml")


def test_a_plan_starts_no_program() -> None:
    """Neither when it is run nor when it is loaded."""
    with pytest.raises(InvalidInput, match="DALANG_MCP_SERVERS_FILE"):
        as_given({"command": "sh", "args": ["-c", "true"]})
    (problem,) = problems(server={"command": "sh"})
    assert problem == ("/nodes/0/inputs/server", "BAD_INPUT")


def problems(**inputs: Any) -> list[tuple[str, str]]:
    """Return what validation has against an mcp node with these inputs."""
    given = {"server": "s", "tool": "t", **inputs}
    plan = {"name": "p", "nodes": [{"nodeId": "a", "type": "mcp", "inputs": given}]}
    return [(one.pointer, one.code) for one in validate(plan).problems]


@pytest.mark.parametrize(
    "inputs",
    [
        {"server": ""},
        {"server": 7},
        {"server": {"url": "x.example"}},
        {"server": {"url": "https://x.example/", "headers": {"a": 1}}},
        {"server": {"url": "https://x.example/", "cwd": "."}},
        {"tool": ""},
        {"tool": 7},
        {"arguments": [1]},
        {"timeout": "soon"},
        {"questions": "maybe"},
    ],
)
def test_wrong_inputs_refuse_the_plan(inputs: dict[str, Any]) -> None:
    """Each literal is checked when the plan is loaded."""
    assert problems(**inputs) == [(f"/nodes/0/inputs/{next(iter(inputs))}", "BAD_INPUT")]


def test_undos_and_planners_name_server_and_tool() -> None:
    """An undo without inputs of its own has those of its node."""
    node = {"nodeId": "a", "type": "mcp", "inputs": {"server": "s", "tool": "t"}, "compensation": {"type": "mcp"}}
    plan: dict[str, Any] = {"name": "p", "nodes": [node]}
    assert validate(plan).problems == ()
    node["compensation"] = {"type": "mcp", "inputs": {"server": "s"}}
    plan["planner"] = {"type": "mcp", "inputs": {"tool": "t"}}
    found = [(one.pointer, one.code) for one in validate(plan).problems if one.severity == "error"]
    assert found == [("/nodes/0/compensation/inputs", "MISSING_INPUT"), ("/planner/inputs", "MISSING_INPUT")]


def test_inputs_that_are_right_or_not_known_yet() -> None:
    """What an expression brings is looked at when it is there."""
    assert problems() == []
    assert problems(server={"url": "https://x.example/mcp", "headers": {"a": "b"}}, timeout="2m") == []
    assert problems(server="${inputs.server}", arguments="${inputs.arguments}") == []
    assert problems(argument={"a": 1}) == [("/nodes/0/inputs/argument", "IGNORED_INPUT")]
    plan = {"name": "p", "nodes": [{"nodeId": "a", "type": "mcp"}]}
    assert [one.code for one in validate(plan).problems] == ["MISSING_INPUT", "MISSING_INPUT"]
