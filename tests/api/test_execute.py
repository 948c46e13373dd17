"""Starting runs: what a run is made from, idempotency, and runs that a crash left without a workflow."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import pytest
from fastapi import FastAPI
from temporalio.client import Client

from dalang.errors import Unavailable
from dalang.launch import Launcher
from dalang.store.runs import NewRun
from tests.api.world import Api, chain, problem
from tests.harness import PATIENCE


@pytest.mark.usefixtures("working")
async def test_a_plan_is_executed_to_its_end(api: Api) -> None:
    """A plan in the body runs to COMPLETED, and everything about it can be read."""
    plan = chain("noop", "api-test-echo", "noop", priority="high")
    plan["inputs"] = {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}}
    plan["nodes"][1]["inputs"] = {"twice": "${inputs.size * 2}"}
    plan["outputs"] = {"twice": "${nodes.n2.outputs.twice}"}
    response = await api("POST", "/orchestrator/execute", json={"plan": plan, "metadata": {"ticket": "T-1"}})
    assert response.status_code == 202
    answer = response.json()
    assert answer.keys() == {"runId", "status", "message", "warnings"}
    assert response.headers["location"] == f"/orchestrator/runs/{answer['runId']}"
    run = await api.ended(answer["runId"])
    assert (run["status"], run["outputs"], run["inputs"]) == ("COMPLETED", {"twice": 6}, {"size": 3})
    assert (run["priority"], run["metadata"], run["createdBy"]) == (1, {"ticket": "T-1"}, "operator@acme")
    assert (run["totalNodes"], run["nodeStatusCounts"]) == (3, {"SUCCESS": 3})
    assert run["startedAt"] <= run["completedAt"]
    assert run["links"]["temporal"].endswith(f"/workflows/run-{run['runId']}")
    verified = await api.get(f"/orchestrator/runs/{run['runId']}/verify")
    assert verified["valid"]
    assert verified["events"] > 6
    stored = await api.get(f"/orchestrator/runs/{run['runId']}/plan")
    assert [node["nodeId"] for node in stored["plan"]["nodes"]] == ["n1", "n2", "n3"]
    counts = await api.get("/orchestrator/runs/counts")
    assert counts == {"counts": {"COMPLETED": 1}, "active": 0, "total": 1}


async def test_a_run_shows_in_temporal_what_it_is(api: Api, temporal_client: Client) -> None:
    """Search attributes, priority, and the task timeout are those of the run; the body's priority wins."""
    run_id = await api.execute(chain("noop", name="look"), priority="critical", tenantId="globex", createdBy="mallory")
    described = await temporal_client.get_workflow_handle(f"run-{run_id}").describe()
    attributes = {pair.key.name: pair.value for pair in described.typed_search_attributes}
    assert attributes.items() >= {"DalangRunStatus": "RUNNING", "DalangPlan": "look", "DalangPriority": 2}.items()
    assert (attributes["DalangTenant"], attributes["DalangPlanVersion"]) == ("acme", "1.0.0")
    assert described.raw_description.execution_config.default_workflow_task_timeout.seconds == 5
    run = await api.get(f"/orchestrator/runs/{run_id}")
    assert (run["priority"], run["createdBy"], run["nodeStatusCounts"]) == (2, "operator@acme", {"PENDING": 1})


@pytest.mark.usefixtures("working")
async def test_a_stored_plan_runs_in_its_highest_version_or_the_one_asked_for(api: Api) -> None:
    """planId starts the highest version by semantic order, planVersion another; unknown ones are 404."""
    for version in ("1.9.0", "1.10.0"):
        stored = await api("POST", "/orchestrator/plans", json=chain("noop", name="p", version=version))
    plan_id = stored.json()["planId"]
    highest = await api.ended(await api.execute(planId=plan_id))
    older = await api.ended(await api.execute(planId=plan_id, planVersion="1.9.0"))
    assert (highest["planVersion"], older["planVersion"]) == ("1.10.0", "1.9.0")
    assert (highest["planId"], highest["planName"]) == (plan_id, "p")
    body = {"planId": plan_id, "planVersion": "3"}
    problem(await api("POST", "/orchestrator/execute", json=body), 404)
    problem(await api("POST", "/orchestrator/execute", json={"planId": str(uuid.uuid4())}), 404)


async def test_one_idempotency_key_makes_one_run(api: Api, temporal_client: Client) -> None:
    """The same key and body answer the same run, also side by side; another body is 409; tenants do not share keys."""
    headers = {"Idempotency-Key": "order-17"}
    runs = await asyncio.gather(*(api.execute(chain("noop"), headers=headers) for _ in range(4)))
    assert len(set(runs)) == 1
    assert len((await api.get("/orchestrator/runs"))["items"]) == 1
    other = await api("POST", "/orchestrator/execute", json={"plan": chain("noop", "noop")}, headers=headers)
    problem(other, 409)
    foreign = await api(
        "POST", "/orchestrator/execute", json={"plan": chain("noop")}, headers=headers, as_=("globex", "operator")
    )
    assert foreign.status_code == 202
    assert foreign.json()["runId"] != runs[0]
    problem(await api("POST", "/orchestrator/execute", json={}, headers={"Idempotency-Key": "x" * 300}), 400)


async def _left_behind(app: FastAPI, digest: str | None = None) -> uuid.UUID:
    """Do what an API does that dies between the row and the workflow."""
    launcher: Launcher = app.state.services.launcher
    report = await launcher.preparations.check(chain("noop", name="left"))
    plan = report.require()
    assert plan.plan_id is not None
    new = NewRun("acme", plan.plan_id, "left", "1.0.0", digest or plan.digest(), "alice", 1)
    return (await launcher.accept(new, plan)).run_id


@pytest.mark.usefixtures("working")
async def test_what_a_crash_left_without_a_workflow_is_started(app: FastAPI, api: Api) -> None:
    """The reconciler starts it, several at once start it once, and a fresh row is left alone."""
    run_id = await _left_behind(app)
    launcher: Launcher = app.state.services.launcher
    assert await launcher.reconcile(60) == 0
    await asyncio.gather(*(launcher.reconcile(0) for _ in range(3)))
    run = await api.ended(str(run_id))
    assert run["status"] == "COMPLETED"
    events = (await api.get(f"/orchestrator/runs/{run_id}/events"))["items"]
    assert [event["type"] for event in events].count("PLAN_STARTED") == 1


async def test_what_can_never_be_started_ends_failed(app: FastAPI, api: Api) -> None:
    """A row whose plan is gone is marked by the reconciler, and its stream ends at once."""
    run_id = await _left_behind(app, digest="0" * 64)
    await app.state.services.launcher.reconcile(0)
    run = await api.ended(str(run_id))
    assert (run["status"], run["reason"], run["nodeStatusCounts"]) == ("FAILED", "START_FAILED", {"CANCELLED": 1})
    assert run["error"]["type"] == "VALIDATION_ERROR"


async def test_a_run_is_accepted_while_temporal_is_away(app: FastAPI, api: Api, temporal_address: str) -> None:
    """Its row is committed and says PENDING; it is started when Temporal answers again."""
    services = app.state.services
    real = services.settings
    services.temporal.settings = real.model_copy(update={"temporal_address": "127.0.0.1:1"})
    response = await api("POST", "/orchestrator/execute", json={"plan": chain("noop")})
    assert response.status_code == 202
    assert response.json()["status"] == "PENDING"
    problem(await api("POST", f"/orchestrator/runs/{response.json()['runId']}/cancel"), 503)
    services.temporal.settings = real
    async with asyncio.timeout(PATIENCE):
        while (await api.get(f"/orchestrator/runs/{response.json()['runId']}"))["links"]["temporal"] is None:
            with contextlib.suppress(Unavailable):  # for a second after a failure nobody tries again
                await services.launcher.reconcile(0)
            await asyncio.sleep(0.1)
