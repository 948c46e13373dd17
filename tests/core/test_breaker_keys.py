"""Whose breaker an attempt goes through, and what its failure says of whoever was called."""

from __future__ import annotations

from typing import Any

import pytest

from dalang.activities.breakers import breaker_key, outcome_of
from dalang.breaker import Outcome
from dalang.nodes import Registration, Registry

FAILED, ANSWERED, UNKNOWN = Outcome


@pytest.fixture
def known() -> Registry:
    registry = Registry()

    def add(name: str, kind: str = "node", capabilities: tuple[str, ...] = (), endpoint: Any = None) -> None:
        def function() -> None: ...

        function.__qualname__ = name
        registry.add(Registration(name, function, kind, capabilities, endpoint=endpoint))

    add("word-count")
    add("query", endpoint=lambda inputs: inputs["db"])
    add("mail", endpoint="smtp.example.org")
    add("add", endpoint="")
    add("coder", "agent", ("coding",))
    return registry


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ({"type": "http", "inputs": {"url": "https://Shop.Example/orders?x=1"}}, "http https://shop.example:443"),
        ({"type": "http", "inputs": {"url": "http://me:secret@shop.example:8080/"}}, "http http://shop.example:8080"),
        ({"type": "http", "inputs": {"url": "http://[::1]:80/a"}}, "http http://[::1]:80"),
        ({"type": "http", "inputs": {"url": "http://shop.example:99999/"}}, None),
        ({"type": "http", "inputs": {"url": "http://[x/"}}, None),
        ({"type": "http", "inputs": {"url": "http://a\x00b/"}}, None),
        ({"type": "http", "inputs": {"url": "ftp://shop.example/"}}, None),
        ({"type": "http", "inputs": {"url": 5}}, None),
        ({"type": "http"}, None),
        ({"type": "mcp", "inputs": {"server": "texts"}}, "mcp texts"),
        ({"type": "mcp", "inputs": {"server": {"url": "https://x.example/mcp"}}}, "http https://x.example:443"),
        ({"type": "mcp", "inputs": {"server": ["texts"]}}, None),
        ({"type": "agent", "handler": "coder"}, "agent coder"),
        ({"type": "agent", "capabilities": ["coding"]}, "agent coder"),
        ({"type": "agent", "agent": "ada", "handler": "coder"}, "agent ada"),
        ({"type": "agent", "handler": "nobody"}, None),
        ({"type": "agent", "capabilities": ["law"]}, None),
        ({"type": "word-count"}, "word-count"),
        ({"type": "python", "handler": "word-count"}, "word-count"),
        ({"type": "python", "implementation": {"coordinate": "word-count"}}, "word-count"),
        ({"type": "python"}, None),
        ({"type": "python", "handler": "nobody"}, None),
        ({"type": "query", "inputs": {"db": "db1"}}, "query db1"),
        ({"type": "query", "inputs": {"db": ""}}, None),
        ({"type": "query", "inputs": {"db": "a\nb"}}, None),
        ({"type": "query"}, None),
        ({"type": "query", "inputs": {"db": "x" * 400}}, "query " + "x" * 294),
        ({"type": "mail"}, "mail smtp.example.org"),
        ({"type": "add"}, None),
        ({"type": "noop"}, None),
    ],
)
def test_keys(known: Registry, task: dict[str, Any], key: str | None) -> None:
    whole: Any = {"inputs": {}, **task}
    assert breaker_key(whole, known) == key


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ({"type": "NETWORK_ERROR"}, FAILED),
        ({"type": "TIMEOUT"}, FAILED),
        ({"type": "RESOURCE_EXHAUSTED", "details": {"status": 429}}, FAILED),
        ({"type": "LLM_ERROR"}, FAILED),
        ({"type": "TOOL_ERROR", "details": {"status": 500}}, FAILED),
        ({"type": "TOOL_ERROR", "details": {"status": 404}}, ANSWERED),
        ({"type": "TOOL_ERROR"}, UNKNOWN),
        ({"type": "TOOL_ERROR", "details": {"status": "broken"}}, UNKNOWN),
        ({"type": "VALIDATION_ERROR", "details": {}}, UNKNOWN),
        ({"type": "POLICY_VIOLATION"}, UNKNOWN),
        ({"type": "UNKNOWN_ERROR", "details": None}, UNKNOWN),
        ({}, UNKNOWN),
    ],
)
def test_outcomes(error: dict[str, Any], outcome: Outcome) -> None:
    assert outcome_of(error) is outcome
