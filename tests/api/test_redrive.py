"""Redrive by REST: finished runs that are started again as new ones."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI

from dalang.store.engine import transaction
from dalang.store.retention import erase_bodies
from tests.api import world
from tests.api.world import Api, chain, problem

RUNS = "/orchestrator/runs"


def _flaky(name: str) -> dict[str, Any]:
    plan = chain("api-test-echo", "api-test-flaky", "api-test-echo")
    plan["nodes"][0]["inputs"] = {"big": "x" * 20_000, "small": 1}
    plan["nodes"][1] |= {"inputs": {"name": name}, "retryPolicy": {"maxAttempts": 1}}
    plan["edges"][0]["mapping"] = {"small": "small"}
    plan["nodes"][2]["inputs"] = {"seen": "${nodes.n1.outputs.big}"}
    return plan


async def _failed(api: Api, name: str) -> str:
    world.failing.add(name)
    run_id = await api.execute(_flaky(name))
    assert (await api.ended(run_id))["status"] == "FAILED"
    world.failing.discard(name)
    return run_id


async def _redrive(api: Api, run_id: str, body: Any = None, **more: Any) -> str:
    response = await api("POST", f"{RUNS}/{run_id}/redrive", json=body or {}, **more)
    assert response.status_code == 202, response.text
    made = str(response.json()["runId"])
    assert response.headers["Location"] == f"{RUNS}/{made}"
    return made


@pytest.mark.usefixtures("working")
async def test_a_failed_run_goes_on_where_it_failed(api: Api) -> None:
    """The new run keeps what went well, with all its values, runs the failed node under the same key, and completes."""
    name = uuid4().hex
    old = await _failed(api, name)
    new = await _redrive(api, old, {"reason": "the service is back"})
    run = await api.ended(new)
    assert (run["status"], run["redriveOf"], run["rootRunId"]) == ("COMPLETED", old, old)
    assert run["origin"]["reason"] == "the service is back"
    assert (await api.get(f"{RUNS}/{old}"))["redrivenBy"] == new
    assert run["nodeStatusCounts"] == {"SUCCESS": 3}
    kept = await api.get(f"{RUNS}/{new}/nodes/n1")
    assert (kept["status"], kept["outputs"], kept["inputs"]) == (
        "SUCCESS",
        {"big": "x" * 20_000, "small": 1},
        {"big": "x" * 20_000, "small": 1},
    )
    assert kept["startedAt"] is None
    assert (await api.get(f"{RUNS}/{new}/nodes/n3"))["outputs"]["seen"] == "x" * 20_000
    assert (await api.get(f"{RUNS}/{new}/nodes/n2"))["generation"] == 0
    events = (await api.get(f"{RUNS}/{new}/events"))["items"]
    assert [one["type"] for one in events[:3]] == ["PLAN_VALIDATED", "PLAN_STARTED", "NODE_KEPT"]
    assert events[1]["data"]["redriveOf"] == old
    assert (await api.get(f"{RUNS}/{new}/verify"))["valid"]


@pytest.mark.usefixtures("working")
async def test_a_redrive_is_made_once(api: Api) -> None:
    """A second one is refused and names the first; with the same Idempotency-Key the first is answered again."""
    old = await _failed(api, uuid4().hex)
    headers = {"Idempotency-Key": uuid4().hex}
    new = await _redrive(api, old, headers=headers)
    assert await _redrive(api, old, headers=headers) == new
    refused = problem(await api("POST", f"{RUNS}/{old}/redrive", json={}), 409)
    assert new in refused["detail"]
    other = await api("POST", f"{RUNS}/{old}/redrive", json={"reason": "x"}, headers=headers)
    assert "was used for another request" in problem(other, 409)["detail"]
    await api.ended(new)
    third = await _redrive(api, new, {"from": ["n1"], "inputs": {"n1": {"small": 2}}})
    run = await api.ended(third)
    assert (run["status"], run["redriveOf"], run["rootRunId"]) == ("COMPLETED", new, old)
    assert [(await api.get(f"{RUNS}/{third}/nodes/{name}"))["generation"] for name in ("n1", "n2")] == [1, 1]
    assert (await api.get(f"{RUNS}/{third}/nodes/n1"))["outputs"]["small"] == 2


@pytest.mark.usefixtures("working")
async def test_what_cannot_be_redriven_is_refused(api: Api, app: FastAPI) -> None:
    """Unknown runs and nodes, wrong bodies, wrong roles, nothing to do: each has its answer, and nothing is made."""
    old = await _failed(api, uuid4().hex)
    address = f"{RUNS}/{old}/redrive"
    problem(await api("POST", f"{RUNS}/{uuid4()}/redrive", json={}), 404)
    problem(await api("POST", address, json={}, as_=("globex", "operator")), 404)
    problem(await api("POST", address, json={}, as_=("acme", "viewer")), 403)
    problem(await api("POST", address, json={}, headers={"Idempotency-Key": ""}), 400)
    for body in ({"from": []}, {"from": "n1"}, {"typo": 1}, {"inputs": {"n1": 5}}, {"reason": "x" * 3000}):
        problem(await api("POST", address, json=body), 422)
    both = problem(await api("POST", address, json={"from": ["n1", "zz"], "inputs": {"yy": {}}}), 422)
    assert [(one["pointer"], one["code"]) for one in both["problems"]] == [
        ("/from/1", "UNKNOWN_NODE"),
        ("/inputs/yy", "UNKNOWN_NODE"),
    ]
    kept = problem(await api("POST", address, json={"inputs": {"n1": {"x": 1}}}), 422)
    assert kept["problems"][0]["code"] == "NODE_IS_KEPT"
    assert (await api.get(f"{RUNS}/{old}"))["redrivenBy"] is None
    fine = await api.execute(chain("api-test-echo"))
    await api.ended(fine)
    assert "nothing to redrive" in problem(await api("POST", f"{RUNS}/{fine}/redrive", json={}), 409)["detail"]
    async with transaction(app.state.services.engine, "acme") as conn:
        await erase_bodies(conn, "acme", UUID(old))
    assert "erased" in problem(await api("POST", address, json={}), 409)["detail"]


@pytest.mark.usefixtures("working")
async def test_a_run_that_goes_on_is_not_redriven(api: Api) -> None:
    """Only what has ended is started again."""
    plan = chain("sleep", "api-test-echo")
    plan["nodes"][0]["inputs"] = {"duration": "1h"}
    run_id = await api.execute(plan)
    await api.reached(run_id, "n1", "RUNNING")
    assert "RUNNING" in problem(await api("POST", f"{RUNS}/{run_id}/redrive", json={}), 409)["detail"]
    await api("POST", f"{RUNS}/{run_id}/cancel")
    assert (await api.ended(run_id))["status"] == "CANCELLED"
    new = await _redrive(api, run_id, {"inputs": {"n1": {"duration": "0s"}}})
    assert (await api.ended(new))["status"] == "COMPLETED"


@pytest.mark.usefixtures("working")
async def test_a_redrive_left_without_a_workflow_is_started_later(api: Api, app: FastAPI) -> None:
    """The row is enough: the reconciler makes the seed again from what is stored."""
    launcher = app.state.services.launcher
    old = await _failed(api, uuid4().hex)
    start = launcher.start
    launcher.start = _never
    try:
        new = await _redrive(api, old)
    finally:
        launcher.start = start
    assert (await api.get(f"{RUNS}/{new}"))["status"] == "PENDING"
    assert await launcher.reconcile(0) == 1
    assert (await api.ended(new))["status"] == "COMPLETED"
    assert (await api.get(f"{RUNS}/{new}/nodes/n1"))["outputs"]["small"] == 1


async def _never(*_: Any) -> bool:
    return True
