"""Budgets by REST on a real worker: what nodes report pauses a run, or all runs of the tenant."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from dalang.nodes import LLMError, NodeContext, node
from tests.api.world import Api, chain, problem
from tests.harness import PATIENCE

ADMIN = ("acme", "admin")


gate = threading.Event()


@node("api-test-model")
async def model(
    ctx: NodeContext, tokens: int = 60, cost: float = 0.25, fails: int = 0, gated: bool = False
) -> dict[str, Any]:
    """Use tokens; fail the first attempts, and wait for the gate if asked."""
    while gated and not gate.is_set():
        await asyncio.sleep(0.02)
    ctx.usage(tokens=tokens // 2)
    ctx.usage(tokens=tokens - tokens // 2, cost=cost)
    if ctx.attempt <= fails:
        raise LLMError("busy", retryable=True)
    return {}


def plan(count: int, budget: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    made = chain(*["api-test-model"] * count)
    for one in made["nodes"]:
        one["inputs"] = inputs
        one["retryPolicy"] = {"maxAttempts": 3, "retryOn": ["LLM_ERROR"], "initialDelayMs": 10}
    return {**made, "budget": budget} if budget else made


async def paused(api: Api, run_id: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await api.get(f"/orchestrator/runs/{run_id}"))["status"] != "PAUSED":
            await asyncio.sleep(0.05)


async def test_a_run_is_paused_and_goes_on_with_more(api: Api, working: None) -> None:
    """What failed attempts used counts; the event says what is spent, and the budget is read and raised."""
    run_id = await api.execute(plan(3, {"tokens": 150, "wallTime": "1h"}, fails=2))
    await paused(api, run_id)
    address = f"/orchestrator/runs/{run_id}/budget"
    found = await api.get(address)
    assert found["budget"] == {"tokens": 150, "cost": None, "nodes": None, "wallTimeMs": 3_600_000}
    assert (found["used"]["tokens"], found["used"]["cost"], found["used"]["nodes"]) == (180, 0.75, 1)
    told = problem(await api("POST", f"/orchestrator/runs/{run_id}/resume"), 409)
    assert "budget is raised" in told["detail"]
    problem(await api("PATCH", address, json={"reason": "more"}), 422)
    problem(await api("PATCH", address, json={"tokens": -1}), 422)
    problem(await api("PATCH", address, json={"tokens": 9}, as_=("acme", "viewer")), 403)
    problem(await api("PATCH", address, json={"tokens": 9}, as_=("globex", "operator")), 404)
    response = await api("PATCH", address, json={"tokens": 1_000, "reason": "it is worth it"})
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "RUNNING"
    assert (await api.ended(run_id))["status"] == "COMPLETED"
    found = await api.get(address)
    assert (found["budget"]["tokens"], found["used"]["tokens"], found["used"]["nodes"]) == (1_000, 540, 3)
    events = (await api.get(f"/orchestrator/runs/{run_id}/events"))["items"]
    raised = next(one for one in events if one["type"] == "BUDGET_RAISED")
    assert raised["data"]["budget"] == {"tokens": 1_000, "wallTime": 3_600_000}
    assert raised["data"]["reason"] == "it is worth it"


async def test_a_tenants_day_pauses_its_runs(api: Api, working: None) -> None:
    """The run that spends it, and those that start after it; more, and a resume, let them go on."""
    problem(await api("PUT", "/orchestrator/budgets", json={"cost": 0.5}), 403)
    response = await api("PUT", "/orchestrator/budgets", json={"cost": 0.5, "wallTime": "10h"}, as_=ADMIN)
    assert response.status_code == 200, response.text
    long = plan(8)
    long["nodes"][2]["inputs"] = {"gated": True}  # what is spent is noticed as it is stored, a little later
    first = await api.execute(long)
    await paused(api, first)
    gate.set()
    second = await api.execute(plan(1))
    await paused(api, second)
    assert (await api.get(f"/orchestrator/runs/{second}/budget"))["used"]["nodes"] == 0
    events = (await api.get(f"/orchestrator/runs/{first}/events"))["items"]
    told = next(one for one in events if one["type"] == "PLAN_PAUSED")["data"]
    assert (told["budget"]["scope"], told["budget"]["measure"]) == ("tenant", "cost")
    async with asyncio.timeout(PATIENCE):
        # The third had begun or not.
        while (found := await api.get("/orchestrator/budgets"))["used"]["nodes"] != found["used"]["cost"] / 0.25:
            await asyncio.sleep(0.05)
    assert found["used"]["cost"] in (0.5, 0.75)
    text = (await api("GET", "/metrics")).text
    assert f'dalang_usage_today{{measure="cost",tenant="acme"}} {found["used"]["cost"]}' in text
    assert 'dalang_budget{measure="cost",tenant="acme"} 0.5' in text
    assert 'dalang_budget{measure="tokens"}' not in text
    other = await api.get("/orchestrator/budgets", as_=("globex", "viewer"))
    assert (other["budget"]["cost"], other["used"]["tokens"]) == (None, 0)
    assert (await api("DELETE", "/orchestrator/budgets", as_=ADMIN)).status_code == 204
    problem(await api("DELETE", "/orchestrator/budgets", as_=ADMIN), 404)
    for run_id in (first, second):
        assert (await api("POST", f"/orchestrator/runs/{run_id}/resume")).status_code == 200
        assert (await api.ended(run_id))["status"] == "COMPLETED"
    assert (await api.get("/orchestrator/budgets"))["used"]["tokens"] == 9 * 60


async def test_what_runs_below_nodes_used_counts_once(api: Api, working: None) -> None:
    """For the run above, and for the tenant."""
    inner = plan(2)
    above = {
        "name": "above",
        "budget": {"tokens": 100},
        "nodes": [{"nodeId": "below", "type": "plan", "plan": inner}, {"nodeId": "after", "type": "noop"}],
        "edges": [{"sourceNodeId": "below", "targetNodeId": "after"}],
    }
    run_id = await api.execute(above)
    await paused(api, run_id)
    used = (await api.get(f"/orchestrator/runs/{run_id}/budget"))["used"]
    assert (used["tokens"], used["cost"], used["nodes"]) == (120, 0.5, 3)
    assert (await api.get("/orchestrator/budgets"))["used"]["tokens"] == 120
    assert (await api("PATCH", f"/orchestrator/runs/{run_id}/budget", json={"tokens": 500})).status_code == 200
    assert (await api.ended(run_id))["status"] == "COMPLETED"


def test_what_is_no_amount_is_refused() -> None:
    """By the handler's own context."""
    ctx = NodeContext("n", "n", "t", "r", "t", {}, "k")
    for wrong in ({"tokens": -1}, {"tokens": 1.5}, {"cost": float("inf")}, {"cost": -2.0}):
        with pytest.raises(Exception, match=r"ctx\.usage"):
            ctx.usage(**wrong)  # type: ignore[arg-type]
    ctx.usage()
    assert ctx._used == {}
