"""Every address, for every role and for another tenant: what docs/access.md says is what happens.

A new address needs a line in that page (``tests/docs/test_complete.py`` says which), and one with a new path parameter
a real thing in ``Things``; one that takes a body, a body in ``BODIES`` that is good enough to get as far as the thing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from dalang.store.engine import transaction
from tests.api.world import Api, chain
from tests.docs.access import OPEN, ROLES, table

ACME, THEIRS = ("acme", "admin"), ("globex", "admin")
ROUTES = table()
ENDLESS = {"/ui/live/{topic}"}
"""Streams that do not end by themselves; their roles are those of the other pages."""


def _filled(path: str, values: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], str(uuid4())), path)


async def test_each_role_gets_exactly_its_verbs(api: Api, app: FastAPI) -> None:
    """Before anything else of the request is looked at: who may not gets 403, who may is answered otherwise."""
    services = app.state.services
    services.settings = services.settings.model_copy(update={"codec_tenants": ("globex",)})
    wrong = []
    for route in ROUTES:
        if route.who in (OPEN, "by call") or route.path in ENDLESS:
            continue
        address = _filled(route.path, {})
        broken = {"content": b"{", "headers": {"Content-Type": "application/json"}} if route.method != "GET" else {}
        # One function asks for the roles of all pages, and drawing them takes a while.
        for role in ("viewer", "agent") if route.path.startswith("/ui") else ROLES:
            status = (await api(route.method, address, as_=("globex", role), **broken)).status_code
            refused = status == 403
            if refused == (role in route.roles) or status in (401, 500):
                wrong.append(f"{route.method} {route.path} as {role}: {status}")
    assert wrong == []


async def test_without_a_token_nothing_answers(api: Api) -> None:
    """Pages send to the sign-in page, everything else says 401; what is open is open."""
    for route in ROUTES:
        response = await api(route.method, _filled(route.path, {}), as_=None)
        if route.who == OPEN:
            assert response.status_code != 401, route
        elif route.path.startswith("/ui"):
            assert response.status_code in (303, 401), route
        else:
            assert response.status_code == 401, route


@dataclass(frozen=True)
class Things:
    """What is acme's: real values of path parameters, by name."""

    values: dict[str, str]

    def of(self, path: str) -> dict[str, str]:
        """Return those for an address; one name may mean two things."""
        if "/pools/" in path:
            return {**self.values, "name": self.values["pool"]}
        if path.startswith("/runtime-hub"):
            return {**self.values, "taskId": self.values["runId"]}
        return self.values


@pytest.fixture
async def things(api: Api, app: FastAPI) -> Things:
    """One of everything; nobody works, so that nothing ends or moves meanwhile."""

    async def send(method: str, path: str, body: Any = None, **more: Any) -> Any:
        response = await api(method, f"/orchestrator{path}", as_=ACME, **(more or {"json": body}))
        assert response.status_code < 300, (path, response.text)
        return response.json()

    plan = await send("POST", "/plans", chain("noop", name="plan-of-acme"))
    run = (await send("POST", "/execute", {"planId": plan["planId"], "metadata": {"of": "acme"}}))["runId"]
    await send("PUT", "/agents/agent-of-acme", {"capabilities": ["any"]})
    await send("PUT", "/pools/pool-of-acme", {"size": 2})
    breaker = await send("POST", "/circuit-breakers/open", {"key": "http:acme", "reason": "x", "duration": "1h"})
    event = await send("POST", "/events", {"name": "event-of-acme", "correlationKey": "1"})
    when = {"cron": ["0 0 1 1 *"], "startAt": "2100-01-01T00:00:00Z"}
    new = {"scheduleId": "schedule-of-acme", "planId": plan["planId"], "spec": when, "paused": True}
    await send("POST", "/schedules", new)
    subscription = await send("POST", "/subscriptions", {"name": "sub-of-acme", "url": "http://127.0.0.1:9/"})
    artifact = await send("POST", "/artifacts", content=b"acme", headers={"Content-Type": "text/plain"})
    token = await send("POST", "/tokens", {"subject": "of-acme", "roles": ["viewer"]})
    ids = {"task": uuid4(), "assignment": uuid4()}
    async with transaction(app.state.services.engine, "acme") as conn:
        of_run = {"run": UUID(run), "at": datetime.now(UTC), **ids}
        await conn.execute(text(_TASK), of_run)
        await conn.execute(text(_ASSIGNMENT), of_run)
        await conn.execute(text(_POINT), of_run)
    return Things(
        {
            "runId": run,
            "planId": plan["planId"],
            "taskId": str(ids["task"]),
            "assignmentId": str(ids["assignment"]),
            "nodeId": "n1",
            "name": "point-of-acme",
            "pool": "pool-of-acme",
            "revision": "1",
            "agentId": "agent-of-acme",
            "breakerId": breaker["breakerId"],
            "eventId": event["eventId"],
            "scheduleId": "schedule-of-acme",
            "subscriptionId": subscription["subscriptionId"],
            "digest": artifact["digest"],
            "tokenId": token["tokenId"],
        }
    )


_TASK = """
    INSERT INTO human_tasks (tenant_id, task_id, run_id, node_id, kind, status, title, created_at, updated_at,
                             revision_epoch, revision)
    VALUES ('acme', :task, :run, 'n1', 'approval', 'PENDING', 'task-of-acme', :at, :at, 0, 1)
"""
_ASSIGNMENT = """
    INSERT INTO agent_assignments (assignment_id, tenant_id, run_id, node_id, key, agent_tenant, agent_id, task,
                                   alive_seconds)
    VALUES (:assignment, 'acme', :run, 'n1', 'k', 'acme', 'agent-of-acme', '{}', 60)
"""
_POINT = """
    INSERT INTO run_checkpoints (tenant_id, run_id, name, epoch, seq, created_by)
    VALUES ('acme', :run, 'point-of-acme', 0, 1, 'x')
"""
_SAYS = {"token": "x" * 30}
BODIES: dict[str, Any] = {
    "POST /orchestrator/agents/{agentId}/assignments/{assignmentId}/progress": _SAYS,
    "POST /orchestrator/agents/{agentId}/assignments/{assignmentId}/complete": {**_SAYS, "outputs": {}},
    "POST /orchestrator/agents/{agentId}/assignments/{assignmentId}/fail": {
        **_SAYS,
        "error": {"type": "TOOL_ERROR", "message": "x"},
    },
    "POST /orchestrator/runs/{runId}/events": {"name": "x"},
    "POST /orchestrator/runs/{runId}/checkpoints": {"name": "x"},
    "POST /orchestrator/runs/{runId}/replan": {"plan": chain("noop")},
    "PATCH /orchestrator/runs/{runId}/budget": {"tokens": 1},
    "DELETE /orchestrator/runs/{runId}/checkpoints": {"before": "2020-01-01T00:00:00Z"},
    "POST /orchestrator/human-tasks/{taskId}/complete": {"action": "approve", "digest": "0" * 64},
    "POST /orchestrator/human-tasks/{taskId}/approve": {"digest": "0" * 64},
    "POST /orchestrator/human-tasks/{taskId}/reject": {"digest": "0" * 64},
    "POST /orchestrator/human-tasks/{taskId}/edit": {"outputs": {}, "digest": "0" * 64},
    "POST /orchestrator/human-tasks/{taskId}/delegate": {"to": "bob"},
    "PATCH /orchestrator/schedules/{scheduleId}": {"note": "x"},
    "POST /orchestrator/schedules/{scheduleId}/backfill": {
        "from": "2020-01-01T00:00:00Z",
        "to": "2020-01-02T00:00:00Z",
    },
    "PUT /orchestrator/subscriptions/{subscriptionId}": {"name": "x", "url": "http://127.0.0.1:9/"},
    "POST /orchestrator/subscriptions/{subscriptionId}/replay": {"runId": str(uuid4())},
}
QUERIES = {
    "DELETE /orchestrator/runs/{runId}/checkpoints": "?before=2020-01-01T00:00:00Z",
    "GET /ui/runs/{runId}/node": "?node=n1",
    "GET /ui/runs/{runId}/value": "?node=n1&part=inputs",
    "GET /ui/runs/{runId}/group": "?key=n1",
}
OWN = {"PUT /orchestrator/agents/{agentId}": {"capabilities": ["other"]}, "PUT /orchestrator/pools/{name}": {"size": 9}}
"""What is named by who makes it: each tenant has its own of every name."""
NO_THING = {"token", "provider", "version", "topic", "path"}
"""Path parameters that are no tenant's: secrets, files of the pages, kinds of news."""


async def _no_address_leads_there(api: Api, things: Things) -> None:
    """404 at every address with an id of theirs, in no list, and under a name of theirs one finds one's own."""
    found = []
    for route in ROUTES:
        names = set(re.findall(r"\{(\w+)\}", route.path)) - NO_THING
        key = f"{route.method} {route.path}"
        if not names or key in OWN or route.who == OPEN:
            continue
        assert names <= things.values.keys(), f"{key}: a thing of acme's for this parameter is missing"
        address = _filled(route.path, things.of(route.path)) + QUERIES.get(key, "")
        body = {} if route.method in ("GET", "DELETE") else {"json": BODIES.get(key, {})}
        answer = await api(route.method, address, as_=THEIRS, **body)
        told = answer.text
        for value in things.of(route.path).values():
            told = told.replace(value, "")  # what was asked for may be repeated
        if answer.status_code != 404 or "of-acme" in told:
            found.append(f"{key}: {answer.status_code} {answer.text[:200]}")
    assert not found, "\n".join(found)


async def _no_list_holds_it(api: Api, things: Things) -> None:
    """Neither its names nor its ids, whatever is asked for."""
    telling = {value for name, value in things.values.items() if name not in ("nodeId", "revision")}
    for route in ROUTES:
        if route.method == "GET" and "{" not in route.path and route.path not in ENDLESS:
            said = (await api("GET", route.path, as_=THEIRS)).text
            assert [one for one in telling if one in said] == [], route
    assert "plan-of-acme" in (await api("GET", "/orchestrator/plans", as_=ACME)).text


async def _names_are_each_tenants_own(api: Api, things: Things) -> None:
    """Who makes something by a name of theirs has made his own, and theirs is as it was."""
    for key, body in OWN.items():
        method, path = key.split(" ")
        address = _filled(path, things.of(path))
        before = await api.get(address, as_=ACME)
        assert (await api(method, address, as_=THEIRS, json=body)).status_code in (200, 201)
        assert (await api("DELETE", address, as_=THEIRS)).status_code == 204
        after = await api.get(address, as_=ACME)
        assert {name: after[name] for name in before if not name.endswith("At")} == {
            name: before[name] for name in before if not name.endswith("At")
        }


async def _no_body_leads_there(api: Api, things: Things) -> None:
    """Ids in bodies and queries are judged as those in addresses."""
    of = things.values
    decision = {"taskId": of["taskId"], "action": "approve", "digest": "0" * 64}
    bulk = await api("POST", "/orchestrator/human-tasks/bulk", as_=THEIRS, json={"decisions": [decision]})
    assert [one["code"] for one in bulk.json()["results"]] == [404], bulk.text
    for path, body in {
        "/orchestrator/execute": {"planId": of["planId"]},
        "/orchestrator/schedules": {"scheduleId": "x", "planId": of["planId"], "spec": {"every": "1h"}},
    }.items():
        answer = await api("POST", path, as_=THEIRS, json=body)
        assert answer.status_code in (404, 422), (path, answer.text)
        assert f"There is no plan {of['planId']}" in answer.text
    mine = {"name": "mine", "url": "http://127.0.0.1:9/"}
    own = (await api("POST", "/orchestrator/subscriptions", as_=THEIRS, json=mine)).json()["subscriptionId"]
    replay = await api("POST", f"/orchestrator/subscriptions/{own}/replay", as_=THEIRS, json={"runId": of["runId"]})
    assert replay.status_code == 404


async def test_what_is_another_tenants_is_not_there(api: Api, things: Things) -> None:
    """By address, in lists, by name, and by what a body or query says."""
    await _no_address_leads_there(api, things)
    await _no_list_holds_it(api, things)
    await _names_are_each_tenants_own(api, things)
    await _no_body_leads_there(api, things)
