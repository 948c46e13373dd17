"""Pools, quotas, the queue and allocations by REST."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.api import world
from tests.api.world import Api, problem
from tests.harness import PATIENCE

ROOT = "/orchestrator"
ADMIN = ("acme", "admin")


def gated(*names: str, **requirements: Any) -> dict[str, Any]:
    """A plan of nodes that wait for the test, each of which asks for the same."""
    for name in names:
        world.gates[name] = asyncio.Event()
    nodes = [
        {"nodeId": name, "type": "api-test-gate", "inputs": {"name": name}, "requirements": requirements}
        for name in names
    ]
    return {"name": "gated", "nodes": nodes}


async def pool(api: Api, name: str, as_: tuple[str, str] = ADMIN, shared: bool = False, **body: Any) -> dict[str, Any]:
    response = await api("PUT", f"{ROOT}/pools/{name}{'?shared=true' if shared else ''}", json=body, as_=as_)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.usefixtures("working")
async def test_who_holds_and_who_waits(api: Api) -> None:
    """Two nodes share a pool of one: one holds it, the other is QUEUED at place 1, until the first gives it back."""
    await pool(api, "desk", size=1, description="one at a time")
    run_id = await api.execute(gated("a", "b", pools={"desk": 1}))
    assert await _running(api, run_id, 1)
    (waits,) = (await api.get(f"{ROOT}/runs/{run_id}/queue"))["items"]
    other = ({"a", "b"} - {waits["nodeId"]}).pop()
    assert {name: waits[name] for name in ("reason", "short", "position")} == {
        "reason": "lease",
        "short": ["pool desk"],
        "position": 1,
    }
    node = await api.get(f"{ROOT}/runs/{run_id}/nodes/{waits['nodeId']}")
    assert (node["status"], node["queue"]["position"]) == ("QUEUED", 1)
    listed = {one["nodeId"]: one["queue"] for one in (await api.get(f"{ROOT}/runs/{run_id}/nodes"))["items"]}
    assert (listed[waits["nodeId"]]["short"], listed[other]) == (["pool desk"], None)
    queue = await api.get(f"{ROOT}/queue")
    assert (queue["size"], queue["active"], queue["everybody"], queue["reasons"]) == (1, 1, 1, {"pool desk": 1})
    assert queue["items"][0]["runId"] == run_id
    (held,) = (await api.get(f"{ROOT}/allocations"))["items"]
    assert (held["nodeId"], held["amounts"]) == (other, {"desk": 1})
    found = await api.get(f"{ROOT}/pools/desk")
    assert (found["used"], found["available"], found["percent"], found["waiting"]) == (1, 0, 100, 1)
    (resource,) = (await api.get(f"{ROOT}/utilization"))["items"]
    assert resource == {"name": "desk", "total": 1, "used": 1, "available": 0, "percent": 100}
    metrics = (await api("GET", "/metrics")).text
    assert 'dalang_pool_used{pool="desk",tenant="acme"} 1.0' in metrics
    assert 'dalang_queue_size{tenant="acme"} 1.0' in metrics
    world.gates[other].set()
    world.gates[waits["nodeId"]].set()
    assert (await api.ended(run_id))["status"] == "COMPLETED"
    assert (await api.get(f"{ROOT}/queue"))["size"] == 0
    assert (await api.get(f"{ROOT}/allocations"))["items"] == []


@pytest.mark.usefixtures("working")
async def test_a_larger_pool_lets_who_waits_go_on(api: Api) -> None:
    """At once, and so does one that is gone."""
    await pool(api, "narrow", size=1)
    run_id = await api.execute(gated("c", "d", "e", pools={"narrow": 1}))
    assert await _running(api, run_id, 1)
    await pool(api, "narrow", size=2)
    assert await _running(api, run_id, 2)
    assert (await api("DELETE", f"{ROOT}/pools/narrow")).status_code == 204
    assert await _running(api, run_id, 3)
    for name in ("c", "d", "e"):
        world.gates[name].set()
    assert (await api.ended(run_id))["status"] == "COMPLETED"


async def _running(api: Api, run_id: str, count: int) -> bool:

    async with asyncio.timeout(PATIENCE):
        while True:
            nodes = (await api.get(f"{ROOT}/runs/{run_id}/nodes"))["items"]
            if sum(one["status"] == "RUNNING" for one in nodes) >= count:
                return sum(one["status"] == "RUNNING" for one in nodes) == count
            await asyncio.sleep(0.05)


async def test_whose_pools_they_are(api: Api) -> None:
    """Operators set their tenant's pools; what all share takes an admin, and shows amounts, never whose."""
    await pool(api, "gpu", as_=("acme", "operator"), size=2)
    assert "admin" in problem(await api("PUT", f"{ROOT}/pools/gpu?shared=true", json={"size": 9}), 403)["detail"]
    assert "admin" in problem(await api("DELETE", f"{ROOT}/pools/gpu?shared=true"), 403)["detail"]
    problem(await api("PUT", f"{ROOT}/pools/gpu", json={"size": 9}, as_=("acme", "viewer")), 403)
    await pool(api, "gpu", as_=("globex", "admin"), shared=True, size=8)
    items = (await api.get(f"{ROOT}/pools"))["items"]
    assert [(one["shared"], one["binding"], one["size"], one["updatedBy"]) for one in items] == [
        (True, False, 8, None),
        (False, True, 2, "operator@acme"),
    ]
    (seen,) = (await api.get(f"{ROOT}/pools", as_=("globex", "viewer")))["items"]
    assert (seen["shared"], seen["binding"], seen["own"]) == (True, True, {"used": 0, "leases": 0, "waiting": 0})
    assert (await api("DELETE", f"{ROOT}/pools/gpu")).status_code == 204
    problem(await api("DELETE", f"{ROOT}/pools/gpu"), 404)
    problem(await api("GET", f"{ROOT}/pools/nobody"), 404)


@pytest.mark.usefixtures("working")
async def test_what_others_hold_is_told_as_an_amount(api: Api) -> None:
    """Of a shared pool with keys a tenant sees the use, and no key that only others use."""
    await pool(api, "db", shared=True, size=1)
    run_id = await api.execute(gated("f", "g", pools={"db": {"key": "eu"}}))
    assert await _running(api, run_id, 1)
    mine = await api.get(f"{ROOT}/pools/db?shared=true")
    assert [(one["key"], one["used"], one["waiting"], one["own"]["used"]) for one in mine["keys"]] == [("eu", 1, 1, 1)]
    others = ("globex", "viewer")
    assert (await api.get(f"{ROOT}/pools/db?shared=true", as_=others))["keys"] == []
    queue = await api.get(f"{ROOT}/queue", as_=others)
    assert (queue["size"], queue["everybody"], queue["items"]) == (0, 1, [])
    assert (await api.get(f"{ROOT}/allocations", as_=others))["items"] == []
    problem(await api("GET", f"{ROOT}/runs/{run_id}/queue", as_=others), 404)
    problem(await api("GET", f"{ROOT}/runs/{run_id}/retries", as_=others), 404)
    for name in ("f", "g"):
        world.gates[name].set()
    await api.ended(run_id)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "a size, a rate, or both"),
        ({"size": -1}, "greater than or equal to 0"),
        ({"size": 1, "burst": 5}, "urst goes with rate"),
        ({"rate": 0}, "greater than 0"),
        ({"size": "many"}, "number"),
        ({"size": 1e300}, "less than or equal"),
        ({"sise": 1}, "no field"),
    ],
)
async def test_pools_that_are_none(api: Api, body: dict[str, Any], words: str) -> None:
    """Each with the place and a sentence."""
    answer = problem(await api("PUT", f"{ROOT}/pools/x", json=body), 422)
    assert words in str(answer["problems"])
    problem(await api("PUT", f"{ROOT}/pools/no%20name", json={"size": 1}), 422)


async def test_a_rate_says_what_it_lets_through(api: Api) -> None:
    """Its burst is what comes in a second unless it is given."""
    found = await pool(api, "calls", rate=0.5)
    assert (found["size"], found["rate"], found["burst"], found["tokens"], found["percent"]) == (None, 0.5, 1, 1, None)


@pytest.mark.usefixtures("working")
async def test_quotas(api: Api) -> None:
    """An admin sets them, all lines at once; everybody may read them."""
    body = {"maxNodes": 1, "weight": 2}
    problem(await api("PUT", f"{ROOT}/quotas", json=body), 403)
    assert (await api("PUT", f"{ROOT}/quotas", json=body, as_=ADMIN)).status_code == 200
    run_id = await api.execute(gated("h", "i"))
    assert await _running(api, run_id, 1)
    found = await api.get(f"{ROOT}/quotas", as_=("acme", "viewer"))
    assert (found["maxNodes"], found["usedNodes"], found["weight"], found["cpuCores"]) == (1, 1, 2, None)
    assert (await api.get(f"{ROOT}/queue"))["reasons"] == {"quota nodes": 1}
    assert (await api.get(f"{ROOT}/utilization"))["items"][0]["name"] == "quota nodes"
    assert (await api("DELETE", f"{ROOT}/quotas", as_=ADMIN)).status_code == 204
    assert await _running(api, run_id, 2)
    problem(await api("DELETE", f"{ROOT}/quotas", as_=ADMIN), 404)
    for name in ("h", "i"):
        world.gates[name].set()
    await api.ended(run_id)


@pytest.mark.usefixtures("working")
async def test_retries_are_counted_with_their_delays(api: Api) -> None:
    """Those that Temporal makes, and those of nodes with a lease, which are the state machine's."""

    retry = {"maxAttempts": 50, "backoffStrategy": "FIXED", "initialDelayMs": 200, "maxDelayMs": 200, "jitter": False}
    await pool(api, "single", size=1)
    world.failing.add("away")
    node = {"type": "api-test-flaky", "inputs": {"name": "away"}, "retryPolicy": retry}
    leased = {**node, "nodeId": "leased", "requirements": {"pools": {"single": 1}}}
    run_id = await api.execute({"name": "flaky", "nodes": [{**node, "nodeId": "plain"}, leased]})
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await api.get(f"{ROOT}/runs/{run_id}/retries")
            counts = {one["nodeId"]: one["totalRetries"] for one in found["nodes"]}
            if counts.get("leased", 0) >= 2 and counts.get("plain", 0) >= 2:
                break
            await asyncio.sleep(0.1)
    world.failing.clear()
    await api.ended(run_id)
    found = await api.get(f"{ROOT}/runs/{run_id}/retries")
    assert found["totalRetries"] == sum(one["totalRetries"] for one in found["nodes"])
    for name in ("plain", "leased"):
        detail = await api.get(f"{ROOT}/runs/{run_id}/nodes/{name}")
        (own,) = (one for one in found["nodes"] if one["nodeId"] == name)
        assert detail["retries"] == {key: own[key] for key in ("totalRetries", "lastRetryAt", "totalDelayMs")}
        assert own["totalRetries"] == detail["attempt"] - 1 == len(detail["attempts"])
        assert own["totalDelayMs"] >= 200 * own["totalRetries"]
        told, kept = (datetime.fromisoformat(at) for at in (own["lastRetryAt"], detail["attempts"][-1]["endedAt"]))
        assert abs(told - kept) < timedelta(seconds=2), "the workflow's time and the worker's"


@pytest.mark.usefixtures("working")
async def test_a_plan_that_asks_too_much_is_warned_of(api: Api) -> None:
    """When it is stored and when it is started; so is one that names a pool that is not there."""
    await pool(api, "gpu", size=1)
    plan = gated("j", pools={"gpuu": 1}, resources={"gpu": 2})
    stored = await api("POST", f"{ROOT}/plans", json=plan)
    started = await api("POST", f"{ROOT}/execute", json={"plan": plan})
    for answer in (stored, started):
        warnings = {one["code"]: one for one in answer.json()["warnings"]}
        assert warnings["LARGER_THAN_POOL"]["pointer"] == "/nodes/0/requirements/resources"
        assert warnings["UNKNOWN_POOL"]["pointer"] == "/nodes/0/requirements/pools/gpuu"
    ended = await api.ended(started.json()["runId"])
    assert ended["error"]["type"] == "RESOURCE_EXHAUSTED"
