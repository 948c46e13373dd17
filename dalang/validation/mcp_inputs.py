"""Inputs of the node type ``mcp``, as far as they hold no expression."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from dalang.durations import parse_duration
from dalang.validation.report import kind_of, shown

_SERVER_FIELDS = ("url", "headers")


def _server(value: Any) -> str | None:
    if isinstance(value, str):
        return None if value else "is the name that the operator gave an MCP server, or {url, headers}."
    if not isinstance(value, Mapping):
        return f"is the name that the operator gave an MCP server, or {{url, headers}}, not {kind_of(value)}."
    if "command" in value:
        return (
            "starts no programs: the operator gives the MCP server a name (DALANG_MCP_SERVERS_FILE), and the node says"
            " that name."
        )
    unknown = [name for name in value if name not in _SERVER_FIELDS]
    if unknown:
        return f"takes `url` and `headers`, not `{shown(unknown[0])[1:-1]}`."
    url, headers = value.get("url"), value.get("headers", {})
    if not isinstance(url, str) or re.match(r"https?://[^\s/]", url) is None:
        return f'needs a `url` with http:// or https://, such as "https://example.org/mcp", not {shown(url)}.'
    if not isinstance(headers, Mapping) or not all(isinstance(one, str) for one in headers.values()):
        return "has `headers`, an object whose values are texts (in quotes)."
    return None


def _tool(value: Any) -> str | None:
    return None if isinstance(value, str) and value else f"is the name of a tool, not {shown(value)}."


def _arguments(value: Any) -> str | None:
    return None if isinstance(value, Mapping) else f"is an object, what the tool takes, not {kind_of(value)}."


def _timeout(value: Any) -> str | None:
    if value is None:
        return None
    try:
        parse_duration(value)
    except ValueError as error:
        return f"is no duration: {error}, not {shown(value)}."
    return None


def _questions(value: Any) -> str | None:
    return None if value in ("decline", "ask") else f"is `decline` or `ask`, not {shown(value)}."


MCP_INPUTS: Mapping[str, Callable[[Any], str | None]] = {
    "server": _server,
    "tool": _tool,
    "arguments": _arguments,
    "timeout": _timeout,
    "questions": _questions,
}
