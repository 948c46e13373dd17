"""Plans in plans by REST: stored ones are looked up at the start, and runs below nodes can be found and read."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.world import Api, chain, problem

RUNS = "/orchestrator/runs"


async def store(api: Api, plan: dict[str, Any]) -> dict[str, Any]:
    response = await api("POST", "/orchestrator/plans", json=plan)
    assert response.status_code == 201, response.text
    stored: dict[str, Any] = response.json()
    return stored


def of_plans(*bodies: dict[str, Any], name: str = "outer", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "nodes": [{"nodeId": f"p{at}", "type": "plan", "plan": body} for at, body in enumerate(bodies)],
        **more,
    }


@pytest.mark.usefixtures("working")
async def test_stored_plans_are_put_in_when_a_run_starts(api: Api) -> None:
    """By name, by planId, through other stored plans; what runs is kept, and later versions change nothing in it."""
    leaf = await store(api, {**chain("api-test-echo", name="leaf"), "outputs": {"v": 1}})
    await store(api, of_plans({"name": "leaf"}, name="middle", outputs={"v": "${nodes.p0.outputs.v}"}))
    outer = of_plans({"name": "middle"}, {"planId": leaf["planId"], "version": "1.0.0"})
    outer["outputs"] = {"a": "${nodes.p0.outputs.v}", "b": "${nodes.p1.outputs.v}"}
    await store(api, outer)
    run_id = await api.execute(planId=(await api.get("/orchestrator/plans"))["items"][-1]["planId"])
    run = await api.ended(run_id)
    assert run["outputs"] == {"a": 1, "b": 1}
    assert (run["parentRunId"], run["links"]["parent"]) == (None, None)
    shown = (await api.get(f"{RUNS}/{run_id}/plan"))["plan"]
    assert shown["nodes"][0]["plan"]["nodes"][0]["plan"]["name"] == "leaf"
    (child,) = (await api.get(f"{RUNS}/{run_id}/nodes/p0"))["childRunIds"]
    below = await api.get(f"{RUNS}/{child}")
    assert (below["planName"], below["parentRunId"], below["parentNodeId"]) == ("middle", run_id, "p0")
    assert [one["status"] for one in (await api.get(f"{RUNS}/{child}/nodes"))["items"]] == ["SUCCESS"]
    assert (await api.get(f"{RUNS}/{child}/verify"))["valid"]
    assert (await api("GET", f"{RUNS}/{child}/graph")).status_code == 200


@pytest.mark.usefixtures("working")
async def test_lists_show_runs_below_nodes_only_when_asked(api: Api) -> None:
    """Somebody who started one run sees one, and finds the others below it."""
    run_id = await api.execute(of_plans({"nodes": [{"nodeId": "a", "type": "noop"}]}))
    await api.ended(run_id)
    assert [one["runId"] for one in (await api.get(RUNS))["items"]] == [run_id]
    below = (await api.get(RUNS, params={"parentRunId": run_id}))["items"]
    assert [(one["parentNodeId"], one["topRunId"], one["iteration"]) for one in below] == [("p0", run_id, 0)]
    assert len((await api.get(RUNS, params={"children": "true"}))["items"]) == 2
    assert (await api.get(RUNS, params={"parentRunId": run_id, "parentNodeId": "x"}))["items"] == []
    assert (await api.get(f"{RUNS}/counts"))["total"] == 1


async def test_a_plan_that_is_not_stored_is_refused_at_its_place(api: Api) -> None:
    """All of them at once; of a stored plan the place is named in the sentence."""
    plan = of_plans({"name": "nobody"}, {"nodes": [{"nodeId": "i", "type": "plan", "plan": {"name": "nowhere"}}]})
    refused = problem(await api("POST", "/orchestrator/execute", json={"plan": plan}), 422)
    assert [(one["pointer"], one["code"]) for one in refused["problems"]] == [
        ("/plan/nodes/0/plan", "UNKNOWN_PLAN"),
        ("/plan/nodes/1/plan/nodes/0/plan", "UNKNOWN_PLAN"),
    ]
    stored = await store(api, plan)
    refused = problem(await api("POST", "/orchestrator/execute", json={"planId": stored["planId"]}), 422)
    assert refused["problems"][0]["pointer"] == "/planId"
    assert "/nodes/0/plan" in refused["problems"][0]["message"]


async def test_a_stored_plan_that_is_in_itself_is_refused(api: Api) -> None:
    """Directly or by way of another; another version of itself is none of its business."""
    await store(api, of_plans({"name": "b"}, name="a"))
    await store(api, of_plans({"name": "a"}, name="b"))
    refused = problem(await api("POST", "/orchestrator/execute", json={"plan": of_plans({"name": "a"})}), 422)
    assert [one["code"] for one in refused["problems"]] == ["RECURSIVE_PLAN"]
    await store(api, {**chain("noop", name="c")})
    second = await store(api, of_plans({"name": "c", "version": "1.0.0"}, name="c", version="2.0.0"))
    assert (await api("POST", "/orchestrator/execute", json={"planId": second["planId"]})).status_code == 202


async def test_plans_of_other_tenants_are_not_there(api: Api) -> None:
    """A name is looked up among one's own plans."""
    await store(api, chain("noop", name="secret"))
    plan = of_plans({"name": "secret"})
    response = await api("POST", "/orchestrator/execute", json={"plan": plan}, as_=("globex", "operator"))
    assert problem(response, 422)["problems"][0]["code"] == "UNKNOWN_PLAN"
