"""Rehearsing by REST: bounded, and nothing of it is kept."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.world import Api, problem

REHEARSE = "/orchestrator/plans/rehearse"
PLAN: dict[str, Any] = {
    "name": "tea",
    "nodes": [
        {"nodeId": "boil", "type": "sleep", "inputs": {"duration": "3m"}},
        {"nodeId": "drink", "type": "noop", "requirements": {"estimatedDuration": "5m"}},
    ],
    "edges": [{"sourceNodeId": "boil", "targetNodeId": "drink"}],
}


async def test_a_plan_is_rehearsed_and_neither_stored_nor_run(api: Api) -> None:
    """The answer is what the command writes as JSON."""
    options = {"runs": 50, "seed": 3, "nodes": {"drink": {"duration": "uniform(4m, 6m)"}}}
    response = await api("POST", REHEARSE, json={"plan": PLAN, "options": options})
    assert response.status_code == 200, response.text
    found = response.json()
    assert (found["runs"], found["ends"], found["complete"]) == (50, {"COMPLETED": 1.0}, True)
    assert 7 * 60_000 <= found["makespanMs"]["p5"] <= found["makespanMs"]["p95"] <= 9 * 60_000
    assert found["median"]["criticalPath"] == ["boil", "drink"]
    again = await api("POST", REHEARSE, json={"plan": PLAN, "options": options})
    assert again.json() == found
    assert (await api.get("/orchestrator/plans"))["items"] == []
    assert (await api.get("/orchestrator/runs"))["items"] == []


async def test_a_request_computes_only_so_much(api: Api) -> None:
    """Where the budget ends, the answer says that it is not complete."""
    nodes = [{"nodeId": f"n{at}", "type": "noop"} for at in range(500)]
    options = {"runs": 10_000, "types": {"noop": {"duration": "uniform(1s, 2s)"}}}
    response = await api("POST", REHEARSE, json={"plan": {"name": "many", "nodes": nodes}, "options": options})
    found = response.json()
    assert response.status_code == 200, response.text
    assert found["complete"] is False
    assert 0 < found["runs"] < 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/plan"),
        ({"plan": PLAN, "options": {"runs": 10_001}}, "/options/runs"),
        ({"plan": PLAN, "options": {"speed": 1}}, "/speed"),
        ({"plan": PLAN, "options": {"nodes": {"eat": {}}}}, "/nodes/eat"),
        ({"plan": {"name": "x", "nodes": []}}, "/nodes"),
    ],
)
async def test_what_is_wrong_is_told_with_its_place(api: Api, body: dict[str, Any], pointer: str) -> None:
    """422 with every problem."""
    answer = problem(await api("POST", REHEARSE, json=body), 422)
    assert pointer in [one["pointer"] for one in answer["problems"]]
