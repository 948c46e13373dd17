"""Runs whose workflow was ended in Temporal behind the run's back."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pytest
from fastapi import FastAPI
from temporalio.client import Client

from tests.api import world
from tests.api.world import Api, chain, problem
from tests.harness import PATIENCE

RUNS = "/orchestrator/runs"


async def _hanging(api: Api) -> tuple[str, str]:
    name = uuid.uuid4().hex
    world.gates[name] = asyncio.Event()
    plan = chain("api-test-gate", "api-test-echo")
    plan["nodes"][0]["inputs"] = {"name": name}
    run_id = (await api("POST", "/orchestrator/execute", json={"plan": plan})).json()["runId"]
    async with asyncio.timeout(PATIENCE):
        while (await api("GET", f"{RUNS}/{run_id}/nodes/n1")).json()["status"] != "RUNNING":
            await asyncio.sleep(0.05)
    return run_id, name


async def _reap(app: FastAPI) -> int:
    reaper = app.state.services.reaper
    async with asyncio.timeout(PATIENCE):
        while not (found := await reaper.reap(settle=timedelta(0))):
            await asyncio.sleep(0.2)  # Temporal's list of ended workflows is late
    return int(found)


@pytest.mark.usefixtures("working")
async def test_a_terminated_run_ends_failed(app: FastAPI, api: Api, temporal_client: Client) -> None:
    """After `temporal workflow terminate` the run is FAILED with that reason, its open nodes are CANCELLED."""
    run_id, name = await _hanging(api)
    await temporal_client.get_workflow_handle(f"run-{run_id}").terminate("for the test")
    assert await _reap(app) == 1
    run = (await api("GET", f"{RUNS}/{run_id}")).json()
    assert (run["status"], run["reason"]) == ("FAILED", "TERMINATED")
    assert run["nodeStatusCounts"] == {"CANCELLED": 2}
    assert (await api("GET", f"{RUNS}/{run_id}/nodes/n1")).json()["status"] == "CANCELLED"
    assert (await api("GET", f"{RUNS}/{run_id}/verify")).json()["valid"]
    assert "FAILED" in problem(await api("POST", f"{RUNS}/{run_id}/cancel"), 409)["detail"]
    world.gates[name].set()


@pytest.mark.usefixtures("working")
async def test_a_run_that_failed_by_itself_is_left_alone(app: FastAPI, api: Api) -> None:
    """A run that told its end keeps its error and reason."""
    plan = chain("api-test-broken")
    run_id = (await api("POST", "/orchestrator/execute", json={"plan": plan})).json()["runId"]
    await api.ended(run_id)
    assert await app.state.services.reaper.reap(settle=timedelta(0)) == 0
    run = (await api("GET", f"{RUNS}/{run_id}")).json()
    assert run["error"]["type"] == "TOOL_ERROR"
