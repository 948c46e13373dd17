"""Circuit breakers over REST: looked at, opened, reset; with a real worker that obeys."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI

from dalang.breaker import Outcome, Thresholds
from dalang.store import breakers as store
from dalang.store.engine import transaction
from tests.api.world import Api, chain, problem

BREAKERS = "/orchestrator/circuit-breakers"
VIEWER = ("acme", "viewer")


async def fail(app: FastAPI, key: str, times: int = 5, tenant: str = "acme") -> None:
    """Let somebody fail so often."""
    for _ in range(times):
        async with transaction(app.state.services.engine, tenant) as conn:
            await store.hear(conn, tenant, key, Thresholds(), Outcome.FAILED, None, "NETWORK_ERROR")


async def opened(api: Api, key: str, status: int = 200, **more: Any) -> dict[str, Any]:
    response = await api("POST", f"{BREAKERS}/open", json={"key": key, **more})
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_list_read_and_reset(api: Api, app: FastAPI) -> None:
    """What failed is listed with its state; a reset forgets it; other tenants see nothing of it."""
    await fail(app, "http https://a.example:443")
    await fail(app, "agent coder", 2)
    await fail(app, "agent coder", 1, "globex")
    items = (await api.get(BREAKERS, as_=VIEWER))["items"]
    assert [(one["key"], one["state"], one["failures"]) for one in items] == [
        ("agent coder", "CLOSED", 2),
        ("http https://a.example:443", "OPEN", 5),
    ]
    assert items[1]["until"]
    assert (items[1]["lastFailure"], items[1]["openings"], items[1]["trials"]) == ("NETWORK_ERROR", 1, 0)
    assert [one["key"] for one in (await api.get(f"{BREAKERS}?state=OPEN&state=HALF_OPEN"))["items"]] == [
        "http https://a.example:443"
    ]
    assert (await api.get(BREAKERS, params={"key": "agent coder"}))["items"] == items[:1]
    page = await api.get(f"{BREAKERS}?limit=1")
    assert (await api.get(f"{BREAKERS}?limit=1&cursor={page['next']}"))["items"] == items[1:]
    path = f"{BREAKERS}/{items[1]['breakerId']}"
    assert await api.get(path) == items[1]
    problem(await api("GET", path, as_=("globex", "admin")), 404)
    problem(await api("POST", f"{path}/reset", as_=("globex", "admin")), 404)
    problem(await api("POST", f"{path}/reset", as_=VIEWER), 403)
    reset = (await api("POST", f"{path}/reset", json={"reason": "it is back"})).json()
    assert (reset["state"], reset["failures"], reset["until"]) == ("CLOSED", 0, None)
    assert (reset["operator"], reset["reason"]) == ("operator@acme", "it is back")
    text = (await api("GET", "/metrics")).text
    assert 'dalang_circuit_breakers{state="CLOSED",tenant="acme"} 2.0' in text
    assert 'dalang_circuit_breakers{state="OPEN",tenant="acme"} 0.0' in text


@pytest.mark.usefixtures("working")
async def test_opened_by_hand_it_holds_nodes_until_it_is_reset(api: Api) -> None:
    """A node whose breaker an operator opened is QUEUED, and runs when its short wait is over and it was reset."""
    found = await opened(api, "api-test-echo", duration="3s", reason="maintenance")
    assert (found["state"], found["operator"], found["reason"]) == ("OPEN", "operator@acme", "maintenance")
    run = await api.execute(chain("api-test-echo"))
    node = await api.reached(run, "n1", "QUEUED")
    assert (node["queue"]["reason"], node["queue"]["short"]) == ("breaker", ["breaker api-test-echo"])
    assert node["queue"]["until"]
    assert (await api("POST", f"{BREAKERS}/{found['breakerId']}/reset")).status_code == 200
    ended = await api.ended(run)
    assert ended["status"] == "COMPLETED"
    events = (await api.get(f"/orchestrator/runs/{run}/events?type=NODE_QUEUED"))["items"]
    assert {one["data"]["reason"] for one in events} == {"breaker"}
    assert events[0]["data"]["short"] == ["breaker api-test-echo"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "MISSING_FIELD"),
        ({"key": ""}, "BAD_VALUE"),
        ({"key": "x" * 301}, "BAD_VALUE"),
        ({"key": "a\nb"}, "BAD_VALUE"),
        ({"key": 5}, "WRONG_TYPE"),
        ({"key": "x", "duration": "0s"}, "BAD_VALUE"),
        ({"key": "x", "duration": "8d"}, "BAD_VALUE"),
        ({"key": "x", "until": "tomorrow"}, "UNKNOWN_FIELD"),
    ],
)
async def test_what_cannot_be_opened(api: Api, body: dict[str, Any], code: str) -> None:
    found = problem(await api("POST", f"{BREAKERS}/open", json=body), 422)
    assert [one["code"] for one in found["problems"]] == [code]


async def test_what_is_not_there(api: Api) -> None:
    problem(await api("GET", f"{BREAKERS}/3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11"), 404)
    problem(await api("POST", f"{BREAKERS}/3f0e6f0e-6b5a-4a9e-9d8e-0a4f3c0e8a11/reset"), 404)
    assert (await api("GET", f"{BREAKERS}/no-uuid")).status_code in (404, 422)
    assert (await api("GET", f"{BREAKERS}?state=BROKEN")).status_code in (400, 422)
