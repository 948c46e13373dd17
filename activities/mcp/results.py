"""What an MCP server answers, as outputs and errors of a node; and its schemas, as checks. Pure.

Results come as the plain JSON of the protocol, so that nothing here needs the library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from dalang.canonical import compact_json, pointer, safe_text
from dalang.nodes import (
    InvalidInput,
    NetworkError,
    NodeFailure,
    PolicyViolation,
    ResourceExhausted,
    TimedOut,
    ToolError,
)
from dalang.validation.bounded_schema import Budget, TooCostly, schema_errors
from dalang.validation.input_schema import schema_problems
from dalang.validation.report import MAX_PROBLEMS
from dalang.validation.schema_sentences import sentence

MAX_EXCERPT = 2_000
MAX_TEXT = 8 * 1024 * 1024
MAX_STEPS = 200_000
"""Of one check by a schema: about a second."""

CONNECTION_CLOSED = -32000
REQUEST_TIMEOUT = -32001
URL_ELICITATION_REQUIRED = -32042
INVALID_PARAMS = -32602
PARSE_ERROR = -32700


class Asked(Exception):
    """The tool asks a person, and nobody has answered that yet.

    ``key`` stands for the question, ``form`` is the JSON Schema of the answer.
    """

    def __init__(self, question: str, form: Mapping[str, Any]) -> None:
        super().__init__(question)
        self.question = safe_text(question, MAX_EXCERPT)
        self.form = dict(form)
        self.key = question_key(question, form)


def question_key(question: str, form: Mapping[str, Any]) -> str:
    """Return what tells one question of a tool from another."""
    return hashlib.sha256(compact_json([question, form])).hexdigest()


def outputs_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs that a successful result stands for.

    The fields of the structured content are outputs (another value than an object is the output ``result``), all texts
    together are ``text``, and what else there is - images, sounds, resources - is the list ``content``. A field of the
    structured content that is called ``text`` or ``content`` wins.
    """
    structured = result.get("structuredContent")
    outputs: dict[str, Any] = {}
    blocks: Sequence[Mapping[str, Any]] = result.get("content") or ()
    others = [dict(one) for one in blocks if one.get("type") != "text"]
    if others:
        outputs["content"] = others
    text = _text(blocks)
    if text is not None:
        outputs["text"] = text
    if isinstance(structured, Mapping):
        outputs.update(structured)
    elif structured is not None:
        outputs["result"] = structured
    return outputs


def _text(blocks: Sequence[Mapping[str, Any]], limit: int = MAX_TEXT) -> str | None:
    texts = [str(one.get("text", "")) for one in blocks if one.get("type") == "text"]
    return safe_text("\n".join(texts), limit) if texts else None


def failure_of(result: Mapping[str, Any], tool: str) -> NodeFailure:
    """Return the failure that a result with ``isError`` stands for: the tool's own word is the message."""
    blocks: Sequence[Mapping[str, Any]] = result.get("content") or ()
    text = _text(blocks, MAX_EXCERPT)
    details: dict[str, Any] = {"tool": tool}
    if result.get("structuredContent") is not None:
        details["structured"] = result["structuredContent"]
    return ToolError(text or f"the tool {tool} failed and did not say why", details=details)


def argument_problems(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what a tool's ``inputSchema`` has against ``arguments``, each with its pointer into the node's inputs.

    A schema that cannot be checked here (its patterns, its references, its dialect) has nothing against anything: the
    server checks, too. The worst schemas take some seconds: call it off the loop.
    """
    return _problems(schema, arguments, "The arguments", ("inputs", "arguments"))


def structure_problems(schema: Mapping[str, Any], structured: Any) -> list[dict[str, str]]:
    """Return what a tool's ``outputSchema`` has against its structured content; as :func:`argument_problems`."""
    return _problems(schema, structured, "The structured content", ())


def _problems(schema: Mapping[str, Any], value: Any, what: str, below: tuple[str, ...]) -> list[dict[str, str]]:
    # The dialects before 2020-12 mean the same by what tools use; what they mean otherwise the meta-schema refuses.
    own = {key: part for key, part in schema.items() if key not in ("$schema", "$id")}
    if own.get("type") == "object" and schema_problems(own, what):
        return []
    found: list[dict[str, str]] = []
    try:
        for error in schema_errors(own, value, Budget(MAX_STEPS)):
            code, steps, message = sentence(error)
            found.append({"pointer": pointer(*below, *steps), "code": code, "message": message})
            if len(found) == MAX_PROBLEMS:
                break
    except (TooCostly, RecursionError):
        return found
    except Exception:  # the library's words for a schema that is none
        return []
    return found


def wrong_arguments(tool: str, problems: Sequence[Mapping[str, str]]) -> NodeFailure:
    """Return the failure of a call that was not made, since the tool's schema refuses the arguments."""
    told = "; ".join(f"{one['pointer']}: {one['message']}" for one in problems[:10])
    more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
    message = f"the arguments are not what the tool {tool} takes: {told}{more}"
    return InvalidInput(message, details={"tool": tool, "problems": list(problems)}, no_effect=True)


def wrong_structure(tool: str, problems: Sequence[Mapping[str, str]]) -> NodeFailure:
    """Return the failure of a call whose answer breaks the tool's own promise."""
    first = problems[0]
    message = (
        f"the tool {tool} answered what its own outputSchema refuses: {first['pointer'] or '/'}: {first['message']}"
    )
    return ToolError(message, details={"tool": tool, "problems": list(problems)})


def unknown_tool(server: str, tool: str, known: Sequence[str]) -> NodeFailure:
    """Return the failure of a call of a tool that the server does not have, or that may not be called."""
    listed = ", ".join(known[:30]) + (" ..." if len(known) > 30 else "") if known else "none"
    return InvalidInput(f"{server} has no tool {tool!r}; it has: {listed}", no_effect=True)


def error_of(
    code: int,
    message: str,
    data: Any,
    *,
    server: str,
    tool: str,
    called: bool,
    status: int | None,
    retry_after: float | None = None,
    said: str = "",
) -> NodeFailure:
    """Return the failure that an error of the protocol stands for.

    ``status`` is the last HTTP status that was no success, and ``retry_after`` what came with it; ``called`` says that
    the tool's call may have arrived, and ``said`` is the end of what a server on stdio wrote to its log.
    """
    details: dict[str, Any] = {"server": server, "tool": tool, "code": code}
    if status is not None:
        details["status"] = status
    if data is not None:
        details["data"] = data
    if said:
        details["stderr"] = said
    no_effect = not called
    if status is not None and code != CONNECTION_CLOSED:
        failure = _of_status(status, f"{server} answered the HTTP status {status}", details, no_effect)
        failure.retry_after = retry_after
        return failure
    text = f"{server}: {safe_text(message, MAX_EXCERPT)}"
    last = said.strip().splitlines()[-1:] if said else []
    if code == CONNECTION_CLOSED:
        what = f"{server} ended the connection{' during the call' if called else ' before the call'}"
        return NetworkError(what + (f": {last[0]}" if last else ""), details=details, no_effect=no_effect)
    if code == REQUEST_TIMEOUT:
        return TimedOut(text, details=details, no_effect=no_effect)
    if code == INVALID_PARAMS:
        return InvalidInput(text, details=details)
    if code == URL_ELICITATION_REQUIRED:
        return ToolError(f"{text} (it asks for a person at a web page, which a node cannot be)", details=details)
    if code == PARSE_ERROR:
        return ToolError(f"{server} answered what cannot be read: {safe_text(message, 500)}", details=details)
    return ToolError(text, details=details)


def _of_status(status: int, message: str, details: dict[str, Any], no_effect: bool) -> NodeFailure:
    if status in (502, 503, 504):
        return NetworkError(message, details=details, no_effect=no_effect)
    if status == 429:
        return ResourceExhausted(message, details=details, no_effect=no_effect)
    if status == 408:
        return TimedOut(message, details=details, no_effect=no_effect)
    if status in (401, 403):
        return PolicyViolation(f"{message}: it does not let this worker in", details=details, no_effect=no_effect)
    if status == 404 and not no_effect:
        return NetworkError(f"{message}: it has forgotten the session", details=details)
    return ToolError(message, retryable=status >= 500, details=details)
