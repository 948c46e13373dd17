"""Replanning by REST: what it changes, every way it is refused, and the history of a run's plan."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.api.world import Api, chain

RUNS = "/orchestrator/runs"


async def _paused(api: Api) -> str:
    """A run whose first node has ended and which is paused."""
    plan = chain("api-test-echo", "sleep", "api-test-echo")
    plan["nodes"][0]["inputs"] = {"x": 1}
    plan["nodes"][1]["inputs"] = {"duration": "1500ms"}
    plan["edges"][0]["mapping"] = {}
    run_id = await api.execute(plan)
    response = await api("POST", f"{RUNS}/{run_id}/pause")
    assert response.status_code == 200, response.text
    while True:
        counts = (await api.get(f"{RUNS}/{run_id}"))["nodeStatusCounts"]
        if "RUNNING" not in counts:
            return run_id


def _node(node_id: str, **more: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": "api-test-echo", **more}


@pytest.mark.usefixtures("working")
async def test_a_run_gets_another_plan(api: Api) -> None:
    """After a dry run and the real one, every view shows the new plan, and the history has both."""
    run_id = await _paused(api)
    patch = {
        "addNodes": [_node("late", inputs={"seen": "${run.id}"})],
        "addEdges": [{"sourceNodeId": "n3", "targetNodeId": "late"}],
    }
    dry = await api("POST", f"{RUNS}/{run_id}/replan", json={"patch": patch, "dryRun": True})
    assert (dry.status_code, dry.json()["revision"]) == (200, 2), dry.text
    assert (await api.get(f"{RUNS}/{run_id}"))["totalNodes"] == 3
    assert [one["revision"] for one in (await api.get(f"{RUNS}/{run_id}/revisions"))["items"]] == [1]
    response = await api(
        "POST", f"{RUNS}/{run_id}/replan", json={"patch": patch, "reason": "more", "expectedRevision": 1}
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["revision"], answer["changes"]) == (2, {"nodesAdded": 1, "edgesAdded": 1})
    assert answer["digest"] == dry.json()["digest"]
    run = await api.get(f"{RUNS}/{run_id}")
    assert (run["status"], run["totalNodes"]) == ("PAUSED", 4)
    assert (await api.get(f"{RUNS}/{run_id}/plan"))["digest"] == answer["digest"]
    assert [one["nodeId"] for one in (await api.get(f"{RUNS}/{run_id}/nodes"))["items"]] == ["n1", "n2", "n3", "late"]
    graph = await api("GET", f"{RUNS}/{run_id}/graph?format=mermaid")
    assert "late" in graph.text
    listed = (await api.get(f"{RUNS}/{run_id}/revisions"))["items"]
    assert [(one["revision"], one["reason"], one["eventId"] is None) for one in listed] == [
        (1, None, True),
        (2, "more", False),
    ]
    detail = await api.get(f"{RUNS}/{run_id}/revisions/2")
    assert detail["diff"]["nodes"]["added"]["late"]["inputs"] == {"seen": "${run.id}"}
    assert (await api.get(f"{RUNS}/{run_id}/revisions/1"))["diff"] is None
    assert (await api("GET", f"{RUNS}/{run_id}/revisions/3")).status_code == 404
    assert (await api("POST", f"{RUNS}/{run_id}/resume")).status_code == 200
    assert (await api.ended(run_id))["nodeStatusCounts"] == {"SUCCESS": 4}
    gone = await api("POST", f"{RUNS}/{run_id}/replan", json={"patch": patch})
    assert (gone.status_code, "COMPLETED" in gone.json()["detail"]) == (409, True)
    assert (await api.get(f"{RUNS}/{run_id}/verify"))["valid"]


BAD: dict[str, tuple[Any, int, str, str]] = {
    "nothing": ({}, 422, "", "either a patch or a plan"),
    "both": ({"patch": {}, "plan": {}}, 422, "", "either a patch or a plan"),
    "a typo": ({"patch": {}, "dryrun": True}, 422, "/dryrun", ""),
    "an empty patch": ({"patch": {}}, 422, "/patch", "at least one of"),
    "an orphan": ({"patch": {"removeNodes": ["n3"]}}, 422, "/patch/removeNodes/0", "left without its node"),
    "a cycle": (
        {"patch": {"addEdges": [{"sourceNodeId": "n3", "targetNodeId": "n2"}]}},
        422,
        "/patch",
        "wait for each",
    ),
    "unknown ids": ({"patch": {"removeEdges": ["nix"]}}, 422, "/patch/removeEdges/0", "no edge `nix`"),
    "an unknown type": (
        {"patch": {"addNodes": [{"nodeId": "x", "type": "nix"}]}},
        422,
        "/patch/addNodes/0/type",
        "nix",
    ),
    "another plan": ({"plan": {"name": "other", "nodes": [{"nodeId": "n1", "type": "noop"}]}}, 422, "/plan/name", ""),
    "no plan": ({"plan": {"name": "chain", "nodes": []}}, 422, "/plan/nodes", ""),
    "what has finished": (
        {"patch": {"replaceNodes": [{"nodeId": "n1", "type": "noop"}]}},
        409,
        "/patch/replaceNodes/0",
        "SUCCESS",
    ),
    "another revision": (
        {"patch": {"addNodes": [{"nodeId": "x", "type": "noop"}]}, "expectedRevision": 9},
        409,
        "-",
        "not at 9",
    ),
}


@pytest.mark.usefixtures("working")
async def test_what_is_refused(api: Api) -> None:
    """422 where the request is wrong, 409 where it does not fit what has happened, each with its place."""
    run_id = await _paused(api)
    for name, (body, status, pointer, words) in BAD.items():
        response = await api("POST", f"{RUNS}/{run_id}/replan", json=body)
        assert (name, response.status_code) == (name, status), response.text
        found = response.json()
        assert words in response.text, (name, response.text)
        if pointer != "-":
            assert pointer in [one["pointer"] for one in found["problems"]], (name, found)
    assert (await api("POST", f"{RUNS}/{uuid4()}/replan", json={"patch": {"set": {}}})).status_code == 404
    assert (await api.get(f"{RUNS}/{run_id}"))["totalNodes"] == 3
    assert (await api("POST", f"{RUNS}/{run_id}/cancel")).status_code == 200
