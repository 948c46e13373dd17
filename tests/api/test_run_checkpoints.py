"""Checkpoints of runs by REST, and redrives that start from them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from dalang.store.engine import system_transaction, transaction
from dalang.store.retention import delete_finished_runs
from tests.api.world import Api, chain, problem

RUNS = "/orchestrator/runs"


async def _gated(api: Api) -> str:
    plan = chain("api-test-echo", "sleep", "api-test-echo")
    plan["nodes"][0]["inputs"] = {"x": 1}
    plan["nodes"][1]["inputs"] = {"duration": "2s"}
    run_id = await api.execute(plan)
    await api.reached(run_id, "n2", "RUNNING")
    return run_id


@pytest.mark.usefixtures("working")
async def test_a_redrive_from_a_checkpoint_keeps_what_had_ended_by_then(api: Api) -> None:
    """A checkpoint of a running run; what ended later runs again, with new keys where it had succeeded."""
    run_id = await _gated(api)
    address = f"{RUNS}/{run_id}/checkpoints"
    made = await api("POST", address, json={"name": "before-the-wait", "note": "look"})
    assert made.status_code == 201, made.text
    assert made.json()["nodeStatusCounts"]["SUCCESS"] == 1
    assert (await api.ended(run_id))["status"] == "COMPLETED"
    response = await api("POST", f"{RUNS}/{run_id}/redrive", json={"checkpoint": "before-the-wait"})
    assert response.status_code == 202, response.text
    new = response.json()["runId"]
    run = await api.ended(new)
    assert (run["status"], run["origin"]["checkpoint"]) == ("COMPLETED", "before-the-wait")
    nodes = {name: await api.get(f"{RUNS}/{new}/nodes/{name}") for name in ("n1", "n2", "n3")}
    assert [node["generation"] for node in nodes.values()] == [0, 1, 1]
    assert nodes["n1"]["startedAt"] is None
    assert nodes["n1"]["outputs"] == {"x": 1}


@pytest.mark.usefixtures("working")
async def test_checkpoints_are_listed_counted_and_deleted(api: Api) -> None:
    """With statistics; a name once; by name or by age; of other tenants nothing can be seen."""
    run_id = await api.execute(chain("api-test-echo"))
    await api.ended(run_id)
    address = f"{RUNS}/{run_id}/checkpoints"
    for name in ("a", "b", "c"):
        assert (await api("POST", address, json={"name": name})).status_code == 201
    assert "already" in problem(await api("POST", address, json={"name": "a"}), 409)["detail"]
    found = await api.get(address)
    assert [one["name"] for one in found["items"]] == ["a", "b", "c"]
    assert found["statistics"]["count"] == 3
    assert found["statistics"]["sizeBytes"] > 100
    assert (await api.get(f"{address}/b"))["createdBy"] == "operator@acme"
    assert (await api("DELETE", f"{address}/b")).status_code == 204
    problem(await api("DELETE", f"{address}/b"), 404)
    problem(await api("GET", f"{address}/b"), 404)
    past, future = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))
    for before, count in ((past, 0), (future, 2)):
        answer = await api("DELETE", address, params={"before": before.isoformat()})
        assert answer.json() == {"deleted": count}
    assert (await api.get(address))["statistics"] == {"count": 0, "sizeBytes": 0, "oldest": None, "newest": None}


@pytest.mark.usefixtures("working")
async def test_what_is_no_checkpoint_is_refused(api: Api, app: FastAPI) -> None:
    """Names that are none, runs of others, roles that only read, points that a reset has left behind."""
    run_id = await api.execute(chain("api-test-echo"))
    await api.ended(run_id)
    address = f"{RUNS}/{run_id}/checkpoints"
    for body in ({}, {"name": ""}, {"name": "a/b"}, {"name": "x" * 101}, {"name": "a", "typo": 1}, {"name": 5}):
        problem(await api("POST", address, json=body), 422)
    problem(await api("DELETE", address), 422)
    problem(await api("POST", address, json={"name": "a"}, as_=("acme", "viewer")), 403)
    problem(await api("POST", address, json={"name": "a"}, as_=("globex", "operator")), 404)
    problem(await api("GET", address, as_=("globex", "operator")), 404)
    problem(await api("POST", f"{RUNS}/{uuid4()}/checkpoints", json={"name": "a"}), 404)
    problem(await api("POST", f"{RUNS}/{run_id}/redrive", json={"checkpoint": "zz"}), 404)
    assert (await api("POST", address, json={"name": "a"})).status_code == 201
    async with transaction(app.state.services.engine, "acme") as conn:
        await conn.execute(text("UPDATE run_events SET superseded = true WHERE run_id = :r"), {"r": UUID(run_id)})
    assert "reset" in problem(await api("POST", f"{RUNS}/{run_id}/redrive", json={"checkpoint": "a"}), 409)["detail"]


@pytest.mark.usefixtures("working")
async def test_checkpoints_go_with_their_run(api: Api, app: FastAPI) -> None:
    """Deleting a finished run deletes its checkpoints."""
    run_id = await api.execute(chain("api-test-echo"))
    await api.ended(run_id)
    assert (await api("POST", f"{RUNS}/{run_id}/checkpoints", json={"name": "a"})).status_code == 201
    async with system_transaction(app.state.services.engine) as conn:
        assert await delete_finished_runs(conn, datetime.now(UTC) + timedelta(hours=1), tenant_id="acme") == 1
    problem(await api("GET", f"{RUNS}/{run_id}/checkpoints/a"), 404)
