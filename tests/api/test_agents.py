"""The registry of agents over REST: who may register what, and what is shown of it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from dalang.settings import Settings
from dalang.store.engine import system_transaction
from dalang.store.tokens import create_token
from tests.api.world import Api, problem

AGENTS = "/orchestrator/agents"
ADMIN, THEIRS = ("acme", "admin"), ("globex", "admin")


async def put(api: Api, name: str, as_: tuple[str, str] = ("acme", "operator"), **body: Any) -> httpx.Response:
    return await api("PUT", f"{AGENTS}/{name}", as_=as_, json=body)


async def test_register_look_at_drain_and_remove(api: Api) -> None:
    """Registering again changes it; what is left out is the default."""
    response = await put(api, "ada", capabilities={"coding": 0.9}, maxConcurrentTasks=2, labels={"team": "a"})
    assert response.status_code == 200, response.text
    item = response.json()
    assert item["status"] == "Idle"
    assert (item["kind"], item["name"], item["shared"], item["heartbeatSeconds"]) == ("poll", "ada", False, 30)
    assert (item["registeredBy"], item["load"], item["activeTasks"]) == ("operator@acme", 0, 0)
    assert (await put(api, "ada", capabilities=["coding", "testing"])).json()["capabilities"] == {
        "coding": 1,
        "testing": 1,
    }
    assert await api.get(f"{AGENTS}/ada") == (await api.get(AGENTS))["items"][0]
    drained = await api("POST", f"{AGENTS}/ada/drain")
    assert drained.json()["status"] == "Draining"
    assert (await api("POST", f"{AGENTS}/ada/drain", json={"draining": False})).json()["status"] == "Idle"
    assert (await api("POST", f"{AGENTS}/ada/heartbeat")).json()["heartbeatAt"]
    assert (await api("DELETE", f"{AGENTS}/ada")).status_code == 204
    problem(await api("GET", f"{AGENTS}/ada"), 404)
    problem(await api("DELETE", f"{AGENTS}/ada"), 404)


async def test_lists_and_statistics(api: Api) -> None:
    """Filters go by what an agent does, can, and is."""
    await put(api, "ada", capabilities=["coding"])
    await put(api, "bob", kind="local", capabilities=["testing"])
    for query, names in [
        ("", ["ada", "bob"]),
        ("?capability=coding", ["ada"]),
        ("?kind=local", ["bob"]),
        ("?status=Offline", []),
    ]:
        assert [one["agentId"] for one in (await api.get(AGENTS + query))["items"]] == names
    assert await api.get(f"{AGENTS}/statistics") == {
        "totalAgents": 2,
        "idleAgents": 2,
        "workingAgents": 0,
        "offlineAgents": 0,
        "drainingAgents": 0,
        "averageLoad": 0,
    }
    problem(await api("GET", f"{AGENTS}?status=Sleeping"), 422)


async def test_tenants_see_their_own_agents_and_shared_ones(api: Api) -> None:
    """A shared one is registered and changed by an admin only, and hidden by an own one of the same id."""
    await put(api, "ada")
    problem(await api("GET", f"{AGENTS}/ada", as_=THEIRS), 404)
    problem(await api("DELETE", f"{AGENTS}/ada", as_=THEIRS), 404)
    problem(await put(api, "sam", shared=True), 403)
    assert (await put(api, "sam", ADMIN, shared=True)).json()["shared"] is True
    assert (await api.get(f"{AGENTS}/sam", as_=("globex", "viewer")))["shared"] is True
    for method, path in (("POST", "drain"), ("POST", "heartbeat"), ("DELETE", "")):
        problem(await api(method, f"{AGENTS}/sam/{path}".rstrip("/")), 403)
    await put(api, "sam", capabilities=["own"])
    assert (await api.get(f"{AGENTS}/sam"))["shared"] is False
    assert (await api("DELETE", f"{AGENTS}/sam")).status_code == 204
    assert (await api.get(f"{AGENTS}/sam"))["shared"] is True
    assert (await api("DELETE", f"{AGENTS}/sam", as_=ADMIN)).status_code == 204


async def test_a_task_queue_is_an_admins_to_give(api: Api, settings: Settings) -> None:
    """Task queues are not divided among tenants; that of our own workers is nobody's."""
    endpoint = {"taskQueue": "agents-go", "activity": "research", "heartbeat": "10s"}
    problem(await put(api, "go", kind="taskQueue", endpoint=endpoint), 403)
    made = (await put(api, "go", ADMIN, kind="taskQueue", endpoint=endpoint)).json()
    assert made["endpoint"] == {"taskQueue": "agents-go", "activity": "research", "heartbeatMs": 10_000}
    assert made["heartbeatSeconds"] == 90
    refused = await put(api, "go", ADMIN, kind="taskQueue", endpoint={"taskQueue": settings.task_queue})
    assert problem(refused, 422)["problems"][0]["pointer"] == "/endpoint/taskQueue"


async def test_an_agent_behind_a2a_says_where_it_is(api: Api) -> None:
    """Its endpoint is kept without what is the default; problems point into it."""
    endpoint = {"url": "https://router.example/", "protocol": "wayang", "target": "writer", "mode": "auto"}
    made = (await put(api, "writer", kind="a2a", endpoint=endpoint)).json()
    assert made["endpoint"] == {"url": "https://router.example/", "protocol": "wayang", "target": "writer"}
    refused = problem(await put(api, "writer", kind="a2a", endpoint={"url": "nowhere", "odd": 1}), 422)
    assert {one["pointer"] for one in refused["problems"]} == {"/endpoint/url", "/endpoint/odd"}


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "a2a"},
        {"kind": "a2a", "endpoint": {"url": "ftp://example.org"}},
        {"kind": "a2a", "endpoint": {"url": "http://a.example", "protocol": "wayang"}},
        {"kind": "a2a", "endpoint": {"taskQueue": "x"}},
        {"kind": "poll", "endpoint": {"url": "http://a.example"}},
        {"kind": "robot"},
        {"kind": "taskQueue"},
        {"kind": "poll", "endpoint": {"taskQueue": "x"}},
        {"capabilities": {"coding": 1.5}},
        {"capabilities": {"coding": True}},
        {"capabilities": {"": 1}},
        {"maxConcurrentTasks": 0},
        {"heartbeatSeconds": 1},
        {"labels": {"a": 1}},
        {"unknown": 1},
    ],
)
async def test_what_is_refused(api: Api, body: dict[str, Any]) -> None:
    """With every problem and where it is."""
    assert problem(await put(api, "ada", ADMIN, **body), 422)["problems"]
    assert (await api.get(AGENTS))["items"] == []


async def test_ids_that_are_none(api: Api) -> None:
    """They stand in addresses."""
    for name in ("statistics", "-a", "a%20b", "a" * 101):
        problem(await put(api, name), 422)


async def test_a_token_of_an_agent_may_do_an_agents_work_only(app: FastAPI, api: Api) -> None:
    """It registers and beats, and reads nothing."""
    async with system_transaction(app.state.services.engine) as conn:
        plain, _ = await create_token(conn, "acme", "ada", ["agent"])
    headers = {"Authorization": f"Bearer {plain}"}
    made = await api("PUT", f"{AGENTS}/ada", as_=None, headers=headers, json={})
    a2a = {"kind": "a2a", "endpoint": {"url": "http://a.example", "headers": {"A": "secret://b"}}}
    problem(await api("PUT", f"{AGENTS}/bob", as_=None, headers=headers, json=a2a), 403)
    assert made.json()["registeredBy"] == "ada"
    assert (await api("POST", f"{AGENTS}/ada/heartbeat", as_=None, headers=headers)).status_code == 200
    for method, path in (("GET", "/orchestrator/runs"), ("POST", f"{AGENTS}/ada/drain"), ("GET", AGENTS)):
        problem(await api(method, path, as_=None, headers=headers), 403)


async def test_plans_are_checked_against_who_is_registered(api: Api) -> None:
    """A warning, since somebody may register before the plan is run."""
    node = {"nodeId": "n", "type": "noop", "requirements": {"capabilities": ["api-coding"]}}
    plan = {"name": "wants", "nodes": [node]}
    await put(api, "cook", capabilities=["cooking"])
    checked = (await api("POST", "/orchestrator/plans/validate", json=plan)).json()
    assert checked["valid"] is True
    assert [one["code"] for one in checked["problems"]] == ["UNMET_REQUIREMENTS"]
    await put(api, "coder", capabilities=["api-coding"])
    assert (await api("POST", "/orchestrator/plans/validate", json=plan)).json()["problems"] == []
    assert (await api("POST", "/orchestrator/plans", json=plan)).json()["warnings"] == []
