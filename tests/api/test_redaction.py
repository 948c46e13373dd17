"""What a run records lacks what is not kept; what it goes by does not; and the chain verifies."""

from __future__ import annotations

import pytest

from tests.api.world import Api, problem


@pytest.mark.usefixtures("working")
async def test_nodes_get_what_is_not_kept(api: Api) -> None:
    """Small and large values; a redrive that would go on from what is not there is refused."""
    large = "x" * 10_000
    plan = {
        "name": "redacted",
        "nodes": [
            {"nodeId": "login", "type": "api-test-echo", "inputs": {"token": "t0ken-of-ann", "user": "ann"}},
            {
                "nodeId": "use",
                "type": "api-test-echo",
                "inputs": {"right": "${nodes.login.outputs.token == 't0ken-of-ann'}"},
            },
            {"nodeId": "big", "type": "api-test-echo", "inputs": {"password": "p4ssword-of-ann", "pad": large}},
            {"nodeId": "end", "type": "api-test-broken", "inputs": {}},
        ],
        "edges": [
            {"sourceNodeId": "login", "targetNodeId": "use"},
            {"sourceNodeId": "use", "targetNodeId": "big"},
            {"sourceNodeId": "big", "targetNodeId": "end", "mapping": {}},
        ],
        "outputs": {"of": "${nodes.login.outputs.token}"},
    }
    run_id = await api.execute(plan)
    await api.ended(run_id)
    address = f"/orchestrator/runs/{run_id}"
    assert (await api.get(f"{address}/nodes/use"))["outputs"]["right"] is True
    assert (await api.get(f"{address}/nodes/login"))["outputs"]["token"] == "[redacted]"
    events = await api("GET", f"{address}/events", params={"bodies": True})
    export = await api("GET", f"{address}/export")
    for told in (events.text, export.text, (await api("GET", f"{address}/nodes/big")).text):
        assert "t0ken-of-ann" not in told.replace("== 't0ken-of-ann'", "")
        assert "p4ssword-of-ann" not in told
    assert (await api.get(f"{address}/verify"))["valid"]
    refused = await api("POST", f"{address}/redrive", json={"from": ["use"]})
    assert "redacted" in problem(refused, 409)["detail"]
