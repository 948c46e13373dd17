"""The Runtime Hub that the API serves, to a Wayang of the seeds and to the node type ``runtime-hub`` on loopback."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI

from tests.api import world
from tests.api.world import TOKENS, Api, problem
from tests.engine.test_runtime_hub import serving
from tests.harness import PATIENCE

pytestmark = pytest.mark.usefixtures("working")


WAYS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (
        {"id": "api-test-echo", "version": "1", "implementation": {"type": "maven", "coordinate": "a:b:1"}},
        {},
        {"a": 1},
    ),
    ({"name": "api-test-echo", "inputs": [{"name": "a", "type": "integer", "required": True}]}, {}, {"a": 1}),
    ({"implementation": {"type": "python", "coordinate": "api-test-echo", "digest": None}}, {}, {"a": 1}),
    (
        {"id": "their.own", "inputs": [{"name": "b", "defaultValue": 2}]},
        {"nodeType": "api-test-echo", "timeoutMs": 5000},
        {"a": 1, "b": 2},
    ),
]
"""Descriptor, metadata and outputs of tasks with the input ``a: 1``."""
REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"metadata": {}}, "MISSING_FIELD", "/nodeDescriptor"),
    ({"metadata": {"nodeType": "no-such-type"}}, "UNKNOWN_NODE_TYPE", "/nodeDescriptor"),
    (
        {"nodeDescriptor": {"implementation": {"type": "wasm", "coordinate": "a.wasm"}}},
        "MISSING_FIELD",
        "/nodeDescriptor/implementation/digest",
    ),
    ({"taskId": "seven"}, None, "/taskId"),
    ({"input": [1]}, None, "/input"),
]
"""What of a task is changed, and which problem is found where."""


def task(kind: str | None = "api-test-echo", **more: Any) -> dict[str, Any]:
    """A task as Wayang sends it."""
    metadata = {"runId": "r", "nodeId": "n", "startTime": 1, **({"nodeType": kind} if kind else {})}
    body = {"taskId": str(uuid4()), "runId": str(uuid4()), "nodeId": "their-node", "nodeDescriptor": None}
    return {**body, "input": {}, "metadata": metadata, **more}


async def execute(api: Api, body: dict[str, Any], **more: Any) -> Any:
    response = await api("POST", "/runtime-hub/execute", json=body, **more)
    assert response.status_code in (200, 202), response.text
    return response.json()


async def status(api: Api, body: dict[str, Any], **more: Any) -> Any:
    return await api.get(f"/runtime-hub/tasks/{body['taskId']}/status", **more)


async def test_a_task_is_a_run_with_one_node(api: Api) -> None:
    """Its result is the node's outputs; texts that look like expressions, and any name of an input, stay as they are.

    The same task again is the same run, whatever Wayang's startTime says; with other inputs it is refused, and for
    another tenant it is his own. What is run is said by the implementation, the type that Wayang puts into the
    metadata, or the descriptor's id or name.
    """
    inputs = {"text": "${inputs.x} $${y}", 'a "quoted}" name': [1, {"b": None}], "käse": 1.5}
    body = task(input=inputs)
    result = await execute(api, body)
    assert (result["success"], result["outputs"], result["error"]) == (True, inputs, None)
    told = await status(api, body)
    assert told["status"] == "SUCCESS"
    assert told["metadata"]["result"]["outputs"] == inputs
    run = await api.get(f"/orchestrator/runs/{result['metadata']['runId']}")
    assert (run["status"], run["createdBy"]) == ("COMPLETED", "operator@acme")
    asked = {"taskId": body["taskId"], "runId": body["runId"], "nodeId": "their-node"}
    assert run["metadata"]["runtimeHub"] == asked

    again = await execute(api, {**body, "metadata": {**body["metadata"], "startTime": 2}})
    assert again == result
    problem(await api("POST", "/runtime-hub/execute", json={**body, "input": {"a": 2}}), 409)
    other = await execute(api, {**body, "input": {"a": 3}}, as_=("globex", "operator"))
    assert other["outputs"] == {"a": 3}
    assert other["metadata"]["runId"] != result["metadata"]["runId"]

    for descriptor, metadata, outputs in WAYS:
        result = await execute(api, task(None, nodeDescriptor=descriptor, metadata=metadata, input={"a": 1}))
        assert result["outputs"] == outputs, result


async def test_tasks_that_do_not_succeed(api: Api) -> None:
    """One that fails did, and not the request; it is tried once, since whoever asks decides about another attempt.

    One that takes long answers 202 when it is not waited for; a second cancel finds it as it is.
    """
    world.failing.add("hub")
    for kind, inputs, expected in (
        ("api-test-broken", {}, ("TOOL_ERROR", False)),
        ("api-test-flaky", {"name": "hub"}, ("NETWORK_ERROR", True)),
    ):
        body = task(kind, input=inputs)
        result = await execute(api, body)
        assert result["success"] is False
        assert (result["error"]["type"], result["error"]["retryable"]) == expected
        assert result["error"]["attempt"] == 1
        assert (await status(api, body))["status"] == "FAILED"
    world.failing.discard("hub")

    world.gates["hub"] = asyncio.Event()
    body = task("api-test-gate", input={"name": "hub"})
    response = await api("POST", "/runtime-hub/execute", json=body, headers={"Prefer": "respond-async, wait=0"})
    assert response.status_code == 202
    assert (response.json()["success"], response.json()["error"]["type"]) == (False, "TIMEOUT")
    assert (await status(api, body))["status"] in ("PENDING", "RUNNING")
    for _ in range(2):
        response = await api("POST", f"/runtime-hub/tasks/{body['taskId']}/cancel")
        assert response.status_code == 200
    result = await execute(api, body)
    assert (result["success"], result["metadata"]["status"]) == (False, "CANCELLED")
    assert "cancelled at the runtime hub" in result["error"]["message"]


async def test_who_may_do_what(api: Api) -> None:
    """Operators send and cancel, viewers look; tasks of other tenants are not there.

    What cannot be run is refused, with every problem at its place in the request.
    """
    for change, code, pointer in REFUSED:
        found = problem(await api("POST", "/runtime-hub/execute", json={**task(), **change}), 422)
        first = found["problems"][0]
        assert first["pointer"] == pointer
        assert code in (None, first["code"])
    body = task()
    problem(await api("POST", "/runtime-hub/execute", json=body, as_=None), 401)
    problem(await api("POST", "/runtime-hub/execute", json=body, as_=("acme", "viewer")), 403)
    await execute(api, body)
    address = f"/runtime-hub/tasks/{body['taskId']}"
    assert (await status(api, body, as_=("acme", "viewer")))["status"] == "SUCCESS"
    problem(await api("POST", f"{address}/cancel", as_=("acme", "viewer")), 403)
    problem(await api("GET", f"{address}/status", as_=("globex", "operator")), 404)
    problem(await api("POST", f"{address}/cancel", as_=("globex", "operator")), 404)


async def test_the_node_type_talks_to_it(api: Api, app: FastAPI) -> None:
    """A node of this Dalang's is a task of another one's: its result, its failure, and a cancel that reaches it."""
    world.gates["far"] = asyncio.Event()
    async with serving(app) as address:
        headers = {"Authorization": f"Bearer {TOKENS['globex', 'operator']}"}

        def far(node: str, kind: str, **inputs: Any) -> dict[str, Any]:
            asked = {"url": address, "nodeType": kind, "input": inputs, "headers": headers, "pollInterval": "50ms"}
            return {"nodeId": node, "type": "runtime-hub", "inputs": asked}

        plan = {
            "name": "far",
            "failurePolicy": "continue",
            "nodes": [
                far("good", "api-test-echo", text="hello"),
                far("bad", "api-test-broken"),
                far("hangs", "api-test-gate", name="far"),
                {"nodeId": "next", "type": "noop"},
            ],
            "edges": [{"sourceNodeId": "good", "targetNodeId": "next"}],
        }
        run_id = await api.execute(plan)
        assert (await api.reached(run_id, "next", "SUCCESS"))["outputs"] == {"text": "hello"}
        error = (await api.reached(run_id, "bad", "FAILED"))["error"]
        assert (error["type"], error["retryable"], error["originNode"]) == ("TOOL_ERROR", False, "bad")
        assert error["details"]["hub"] == f"{address}/runtime-hub"
        await api.reached(run_id, "hangs", "RUNNING")
        theirs = await api.get("/orchestrator/runs", as_=("globex", "viewer"), params={"active": "true"})
        (far_run,) = theirs["items"]
        assert far_run["createdBy"] == "operator@globex"
        response = await api("POST", f"/orchestrator/runs/{run_id}/cancel", json={})
        assert response.status_code == 200, response.text
        async with asyncio.timeout(PATIENCE):
            while far_run["status"] != "CANCELLED":
                await asyncio.sleep(0.05)
                far_run = await api.get(f"/orchestrator/runs/{far_run['runId']}", as_=("globex", "viewer"))
        assert (await api.ended(run_id))["status"] in ("CANCELLED", "FAILED")
