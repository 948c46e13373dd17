"""Requests that schemathesis makes up from the OpenAPI document, right and wrong, for each route of a real API.

No answer is a 5xx or tells of exceptions; each is one that the document names, in its media type and its schema. More
of them with ``PYTEST_EFFORT``.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from tests.api.fuzz_kit import ADMIN, Fuzzed, attacked
from tests.api.world import TOKENS
from tests.effort import tries
from tests.harness import Servers

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
TELLTALES = ("Traceback", "pydantic", "sqlalchemy", "asyncpg", ".py", " object at 0x")
TOKEN = {"Authorization": f"Bearer {TOKENS[ADMIN]}"}
LAST = ("cancel", "terminate", "complete", "approve", "reject", "edit")
"""What ends what other routes need."""


@pytest.fixture(scope="module")
async def fuzzed(
    servers: Servers, superuser: asyncpg.Connection, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fuzzed]:
    """An API with something of everything in it."""
    async with attacked(servers, superuser, tmp_path_factory.mktemp("fuzz")) as made:
        yield made


def _operations(fuzzed: Fuzzed) -> list[Any]:
    found = [one.ok() for one in schemathesis.openapi.from_dict(fuzzed.document).get_all_operations()]
    return sorted(found, key=lambda one: one.method.upper() == "DELETE" or one.path.rsplit("/", 1)[1] in LAST)


def _attack(fuzzed: Fuzzed, operation: Any, mode: GenerationMode, session: requests.Session) -> None:
    stream = operation.path.endswith("/events/stream")

    @settings(
        max_examples=tries(2),
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode), st.data())
    def one(case: Any, data: st.DataObject) -> None:
        for name in case.path_parameters or {}:
            known = fuzzed.ended if stream and name == "runId" else fuzzed.known.get(name)
            if known and data.draw(st.integers(0, 3)):  # mostly something that is there
                case.path_parameters[name] = data.draw(st.sampled_from(known))
        if operation.path.endswith("/poll") and isinstance(case.body, dict):
            case.body["waitSeconds"] = 0
        response = case.call(base_url=fuzzed.url, session=session, headers=TOKEN, timeout=60)
        case.validate_response(response, checks=CHECKS)
        if response.headers.get("content-type") == "application/problem+json":
            answer = response.json()
            told = json.dumps([answer.get("detail"), answer.get("problems")])
            assert [word for word in TELLTALES if word in told] == [], case.as_curl_command()

    one()


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
async def test_what_comes_to_any_route_is_answered_as_the_document_says(fuzzed: Fuzzed) -> None:
    """All routes with a token of the role admin; ids are mostly known ones."""

    def attack() -> None:
        with requests.Session() as session:
            for number, operation in enumerate(_operations(fuzzed)):
                if operation.path.startswith("/health"):
                    continue  # takes nothing that could be wrong
                for mode in MODES if tries(1) > 1 else MODES[number % 2 :][:1]:
                    _attack(fuzzed, operation, mode, session)

    await asyncio.to_thread(attack)


BAD_MESSAGES: list[Any] = [
    None,
    [],
    {},
    "x",
    {"jsonrpc": "1.0", "id": 1, "method": "tools/list"},
    {"jsonrpc": "2.0", "id": {}, "method": "tools/list"},
    {"jsonrpc": "2.0", "id": 1, "method": 5},
    {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": []},
    {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_runs", "arguments": {"limit": {}}}},
    {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": {"parts": [{"data": 10**30}]}}},
    {"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": {"message": {"parts": [{"kind": "secret-value"}]}}},
    {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"id": []}},
]


@pytest.mark.parametrize("path", ["/mcp", "/a2a"])
async def test_other_protocols_tell_no_exceptions_either(fuzzed: Fuzzed, path: str) -> None:
    """Nor do their libraries: what is no message is refused in a sentence."""
    headers = {**TOKEN, "Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=fuzzed.url, headers=headers, timeout=60) as client:
        for message in BAD_MESSAGES:
            for version in ("1.0", "0.3"):
                answer = await client.post(path, content=json.dumps(message), headers={"A2A-Version": version})
                assert answer.status_code < 500, answer.text
                assert "error" in answer.text.lower() or answer.status_code == 202, (message, answer.text)
                assert [word for word in TELLTALES if word in answer.text] == [], (message, answer.text)


async def test_every_body_has_a_bound(fuzzed: Fuzzed) -> None:
    """What is declared too large is refused before a byte of it is read, by every route that takes a body."""
    transport = httpx.ASGITransport(fuzzed.app, raise_app_exceptions=False)
    taking = [
        (method, path, next(iter(operation["requestBody"]["content"])))
        for path, item in fuzzed.document["paths"].items()
        for method, operation in item.items()
        if "requestBody" in operation
    ]
    assert len(taking) > 40
    taking += [("post", "/mcp", "application/json"), ("post", "/a2a", "application/json")]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=TOKEN) as client:
        for method, template, media in taking:
            path = re.sub(r"{(\w+)}", lambda name: fuzzed.known.get(name[1], [str(uuid.uuid4())])[0], template)
            headers = {
                "Content-Type": media,
                "Content-Length": str(10**12),
                "Accept": "application/json, text/event-stream",
            }
            answer = await client.request(method, path, content=b"{}", headers=headers)
            # Who may not ask at all (the codec is for tenants that the operator names) is told so before.
            refused = answer.status_code == 413 or (path.startswith("/codec/") and answer.status_code == 403)
            refused = refused or (path == "/a2a" and "are read" in answer.text)
            # Whose subscription it is comes first as well, and the test above may have deleted it.
            refused = refused or ("{subscriptionId}" in template and answer.status_code == 404)
            assert refused or template.endswith("/callbacks/{token}"), (method, template, answer.text)
