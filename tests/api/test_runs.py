"""Runs: lists, and controls with and without a worker."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from temporalio.client import Client

from dalang.settings import Settings
from dalang.worker import worker
from tests.api import world
from tests.api.world import Api, chain, problem
from tests.harness import PATIENCE

RUNS = "/orchestrator/runs"


@pytest.fixture
def gate() -> str:
    """The name of a gate that is closed, and opened after the test whatever happens."""
    name = f"gate-{datetime.now(UTC).timestamp()}"
    world.gates[name] = threading.Event()
    yield name
    world.gates[name].set()


def gated(gate: str, *after: str) -> dict[str, Any]:
    """A plan whose first node waits for the gate."""
    plan = chain("api-test-gate", *after)
    plan["nodes"][0]["inputs"] = {"name": gate}
    return plan


async def test_runs_are_listed_filtered_and_paged(api: Api) -> None:
    """The newest first; every filter narrows; a page's cursor leads to the next."""
    start = datetime.now(UTC)
    ids = [await api.execute(chain("noop", name=f"plan {at % 2}")) for at in range(5)]
    first = await api.get(RUNS, params={"limit": 3})
    second = await api.get(RUNS, params={"limit": 3, "cursor": first["next"]})
    assert [one["runId"] for one in first["items"] + second["items"]] == ids[::-1]
    assert second["next"] is None

    async def found(**query: Any) -> int:
        return len((await api.get(RUNS, params=query))["items"])

    plan_id = first["items"][0]["planId"]
    assert await found(planId=plan_id) == 3
    assert await found(plan="PLAN 1") == 2
    assert (await found(createdBy="operator@acme"), await found(createdBy="bob")) == (5, 0)
    assert await found(status=["PENDING", "RUNNING"]) == 5
    assert (await found(active="true"), await found(active="false")) == (5, 0)
    assert await found(active="false", status="RUNNING") == 0
    later = (start + timedelta(hours=1)).isoformat()
    assert await found(**{"from": start.isoformat(), "to": later}) == 5
    assert await found(**{"from": later}) == 0
    counts = await api.get(f"{RUNS}/counts")
    assert (counts["active"], counts["total"]) == (5, 5)
    problem(await api("GET", RUNS, params={"from": "2026-01-01T00:00:00"}), 422)


@pytest.mark.usefixtures("working")
async def test_pause_resume_and_cancel(api: Api, gate: str) -> None:
    """Each answers with the new status, once; who asked is the token's subject, whatever the body says."""
    run_id = await api.execute(gated(gate, "noop"))
    await api.reached(run_id, "n1", "RUNNING")
    address = f"{RUNS}/{run_id}"
    body = {"reason": "lunch", "operator": "mallory"}
    paused = await api("POST", f"{address}/pause", json=body)
    assert paused.status_code == 200, paused.text
    assert paused.json() == {"runId": run_id, "status": "PAUSED", "message": "Execution paused successfully"}
    run = await api.get(address)
    assert (run["status"], run["reason"], run["nodeStatusCounts"]) == ("PAUSED", "lunch", {"RUNNING": 1, "PENDING": 1})
    assert "PAUSED" in problem(await api("POST", f"{address}/pause"), 409)["detail"]
    assert (await api("POST", f"{address}/resume")).json()["status"] == "RUNNING"
    problem(await api("POST", f"{address}/resume"), 409)
    for bad in ({"reason": 1}, {"why": "x"}, {"reason": None, "operator": []}):
        assert problem(await api("POST", f"{address}/cancel", json=bad), 422)["problems"]
    cancelled = await api("POST", f"{address}/cancel", json={"reason": "enough"})
    assert cancelled.status_code == 200
    run = await api.ended(run_id)
    assert (run["status"], run["reason"], run["nodeStatusCounts"]) == ("CANCELLED", "enough", {"CANCELLED": 2})
    for control in ("pause", "resume", "cancel"):
        problem(await api("POST", f"{address}/{control}"), 409)
    events = (await api.get(f"{address}/events", params={"type": "PLAN_PAUSED"}))["items"]
    assert events[0]["data"]["operator"] == "operator@acme"


@pytest.mark.usefixtures("working")
async def test_a_failed_run_says_why(api: Api) -> None:
    """The ErrorPayload stands in the run, the node and the event."""
    run = await api.ended(await api.execute(chain("api-test-broken", "noop")))
    assert (run["status"], run["nodeStatusCounts"]) == ("FAILED", {"FAILED": 1, "SKIPPED": 1})
    assert (run["error"]["type"], run["errorMessage"]) == ("TOOL_ERROR", "it is broken")
    address = f"{RUNS}/{run['runId']}"
    node = await api.get(f"{address}/nodes/n1")
    assert (node["error"]["message"], node["attempts"][0]["error"]["type"]) == ("it is broken", "TOOL_ERROR")
    skipped = await api.get(f"{address}/nodes/n2")
    assert (skipped["status"], skipped["skipReason"]) == ("SKIPPED", "upstreamFailed")
    query = {"type": "NODE_FAILED", "bodies": "true"}
    events = (await api.get(f"{address}/events", params=query))["items"]
    assert events[0]["body"]["error"]["originNode"] == "n1"
    picture = await api("GET", f"{address}/graph?format=mermaid")
    assert "FAILED" in picture.text


async def test_without_a_worker_a_control_is_left_for_it(app: FastAPI, api: Api, settings: Settings) -> None:
    """It answers 202 soon, and is applied when a worker is back."""
    app.state.services.controls.accept_seconds = 0.5
    run_id = await api.execute(chain("noop"))
    response = await api("POST", f"{RUNS}/{run_id}/cancel", json={"reason": "never mind"})
    assert response.status_code == 202, response.text
    assert "when a worker is back" in response.json()["message"]
    async with worker(settings):
        run = await api.ended(run_id)
    assert (run["status"], run["reason"]) == ("CANCELLED", "never mind")


@pytest.mark.usefixtures("working")
async def test_a_run_that_temporal_lost_answers_409(api: Api, temporal_client: Client, gate: str) -> None:
    """Its workflow was terminated behind our back: the control says so instead of failing."""
    run_id = await api.execute(gated(gate))
    await api.reached(run_id, "n1", "RUNNING")
    await temporal_client.get_workflow_handle(f"run-{run_id}").terminate()
    problem(await api("POST", f"{RUNS}/{run_id}/pause"), 409)


@pytest.mark.usefixtures("working")
async def test_controls_side_by_side(api: Api, gate: str) -> None:
    """Of several pauses at once exactly one succeeds, the others are told the status."""
    run_id = await api.execute(gated(gate))
    await api.reached(run_id, "n1", "RUNNING")
    answers = await asyncio.gather(*(api("POST", f"{RUNS}/{run_id}/pause") for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    await api("POST", f"{RUNS}/{run_id}/cancel")
    await api.ended(run_id)


@pytest.mark.usefixtures("working")
async def test_an_operator_decides_about_a_failed_node(api: Api) -> None:
    """Held by a failure a run is resumed by a retry or a skip only; each wrong decision is told why."""
    plan = chain("api-test-echo", "api-test-broken", "api-test-echo", failurePolicy="pause")
    run_id = (await api("POST", "/orchestrator/execute", json={"plan": plan})).json()["runId"]
    address = f"{RUNS}/{run_id}"
    async with asyncio.timeout(PATIENCE):
        while (await api("GET", address)).json()["status"] != "PAUSED":
            await asyncio.sleep(0.05)
    assert "n2" in problem(await api("POST", f"{address}/resume"), 409)["detail"]
    assert "SUCCESS" in problem(await api("POST", f"{address}/nodes/n1/retry"), 409)["detail"]
    assert "nope" in problem(await api("POST", f"{address}/nodes/nope/skip"), 404)["detail"]
    problem(await api("POST", f"{address}/nodes/n2/skip", json={"outputs": [1]}), 422)
    problem(await api("POST", f"{address}/nodes/n2/retry", json={"outputs": {}}), 422)
    skipped = await api("POST", f"{address}/nodes/n2/skip", json={"outputs": {"x": 1}, "reason": "known"})
    assert skipped.status_code == 200, skipped.text
    await api.ended(run_id)
    nodes = {node["nodeId"]: node["status"] for node in (await api("GET", f"{address}/nodes")).json()["items"]}
    assert nodes == {"n1": "SUCCESS", "n2": "SKIPPED", "n3": "SUCCESS"}
    problem(await api("POST", f"{address}/nodes/n2/retry"), 409)
