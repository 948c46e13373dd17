"""``/mcp``: the tools for models, by the real client and streamable HTTP, with the tokens and roles of REST."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import httpx2
import pytest
import uvicorn
import yaml
from fastapi import FastAPI
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from dalang.activities.egress import enforcing
from dalang.activities.mcp.node import Mcp
from dalang.activities.mcp.servers import NamedServers
from dalang.api.app import create_app
from dalang.egress import Egress
from dalang.mcp_server.guide import PLANS
from dalang.nodes import NodeContext, NodeFailure
from dalang.settings import Settings
from dalang.stack.ports import free_port
from dalang.validation import validate
from tests.api import world
from tests.api.world import TOKENS, Api, chain
from tests.harness import PATIENCE

ASK = {
    "name": "ask",
    "nodes": [
        {"nodeId": "ask", "type": "human", "inputs": {"text": "hello"}, "task": {"title": "May we?"}},
        {"nodeId": "greet", "type": "noop"},
    ],
    "edges": [{"sourceNodeId": "ask", "targetNodeId": "greet"}],
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dalang.mcp_server.tools.LOOK_SECONDS", 0.05)


class Tools:
    """A client of the tools."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that does what it is asked."""
        result = await self.client.call_tool(name, arguments)
        assert not result.is_error, result.content
        assert json.loads(result.content[0].text) == result.structured_content
        found: dict[str, Any] = result.structured_content
        return found

    async def refused(self, name: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
        """Call a tool that does not; return what it says."""
        result = await self.client.call_tool(name, arguments)
        assert result.is_error, result.structured_content
        return result.content[0].text, result.structured_content


@contextlib.asynccontextmanager
async def tools(
    app: FastAPI, role: str = "operator", *, tenant: str = "acme", mode: str = "auto"
) -> AsyncIterator[Tools]:
    headers = {"Authorization": f"Bearer {TOKENS[tenant, role]}"}
    async with (
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), headers=headers, timeout=60) as http,
        Client(streamable_http_client("http://api.test/mcp", http_client=http), mode=mode, cache=None) as client,
    ):
        yield Tools(client)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_model_learns_what_there_is(app: FastAPI, mode: str) -> None:
    """By the protocol of 2026 and by those before: instructions, tools that say what they do, resources."""
    async with tools(app, "viewer", mode=mode) as call:
        assert "validate_plan" in (call.client.instructions or "")
        listed = {one.name: one for one in (await call.client.list_tools()).tools}
        assert set(listed) >= {
            *("validate_plan", "rehearse_plan", "start_run", "list_runs", "get_run", "pause_run", "resume_run"),
            *("cancel_run", "list_tasks", "decide_task", "replan_run"),
        }
        for tool in listed.values():
            assert len(tool.description or "") > 30
            assert tool.input_schema["additionalProperties"] is False
            undescribed = [name for name, one in tool.input_schema["properties"].items() if "description" not in one]
            assert undescribed == [], tool.name
            assert "title" not in json.dumps(tool.input_schema).replace('"titles', "")
        assert listed["get_run"].annotations.read_only_hint
        assert listed["cancel_run"].annotations.destructive_hint
        (reference, schema) = (await call.client.list_resources()).resources
        assert "nodeId" in (await call.client.read_resource(reference.uri)).contents[0].text
        assert json.loads((await call.client.read_resource(schema.uri)).contents[0].text)["$defs"]


def test_the_plan_of_the_guide_is_a_plan() -> None:
    """What a model is shown it may copy."""
    (block,) = re.findall(r"```json\n(.*?)```", PLANS, re.DOTALL)
    assert [str(one) for one in validate(json.loads(block)).problems] == []


async def test_a_plan_is_checked_rehearsed_and_run(app: FastAPI, working: None) -> None:
    """As JSON and as YAML; a repeated start with the same key starts nothing; the end is waited for."""
    plan = {**chain("noop", "api-test-echo", name="by-a-model"), "outputs": {"text": "${nodes.n2.outputs.text}"}}
    plan["inputs"] = {"type": "object", "properties": {"text": {"type": "string"}}}
    plan["nodes"][0]["inputs"] = {"text": "${inputs.text}"}
    async with tools(app) as call:
        for given in (plan, yaml.safe_dump(plan)):
            assert await call("validate_plan", plan=given) == {"valid": True, "problems": []}
        found = await call("validate_plan", plan={"name": "x", "nodes": [{"nodeId": "a", "type": "nope"}]})
        assert not found["valid"]
        assert found["problems"][0]["pointer"] == "/nodes/0/type"
        rehearsed = await call("rehearse_plan", plan=plan, options={"runs": 20, "inputs": {"text": "x"}})
        assert rehearsed["ends"] == {"COMPLETED": 1.0}
        text, told = await call.refused("start_run", plan="name: [")
        assert "cannot be read" in text
        assert told["problems"]

        started = await call("start_run", plan=plan, inputs={"text": "hi"}, idempotencyKey="once")
        assert (await call("start_run", plan=plan, inputs={"text": "hi"}, idempotencyKey="once"))["runId"] == started[
            "runId"
        ]
        seen = await call("get_run", runId=started["runId"], waitSeconds=40, events=3)
        assert (seen["run"]["status"], seen["run"]["outputs"]) == ("COMPLETED", {"text": "hi"})
        assert [one["status"] for one in seen["nodes"]] == ["SUCCESS", "SUCCESS"]
        assert [one["type"] for one in seen["events"]] == ["NODE_STARTED", "NODE_COMPLETED", "PLAN_COMPLETED"]
        detail = await call("get_run", runId=started["runId"], nodeId="n2", events=10, bodies=True)
        assert detail["node"]["outputs"] == {"text": "hi"}
        assert {one["nodeId"] for one in detail["events"]} <= {"n2"}
        (listed,) = (await call("list_runs", plan="by-a-model"))["items"]
        assert (listed["runId"], listed["status"]) == (started["runId"], "COMPLETED")


async def test_a_run_is_paused_changed_and_ended(app: FastAPI, working: None) -> None:
    """The reasons stand in the events, under the name of the token's owner."""
    world.gates["mcp"] = asyncio.Event()
    plan = chain("api-test-gate", "noop", name="gated")
    plan["nodes"][0]["inputs"] = {"name": "mcp"}
    async with tools(app) as call:
        run = (await call("start_run", plan=plan))["runId"]
        assert (await call("pause_run", runId=run, reason="lunch"))["status"] == "PAUSED"
        patch = {
            "addNodes": [{"nodeId": "n3", "type": "noop"}],
            "addEdges": [{"sourceNodeId": "n2", "targetNodeId": "n3"}],
        }
        assert (await call("replan_run", runId=run, patch=patch, dryRun=True))["revision"] == 2
        assert (await call("replan_run", runId=run, patch=patch, reason="more"))["changes"]["nodesAdded"] == 1
        text, told = await call.refused(
            "replan_run", runId=run, patch={"replaceNodes": [{"nodeId": "n1", "type": "noop"}]}
        )
        assert told["status"] == 409
        assert "IMMUTABLE" in text
        assert (await call("resume_run", runId=run))["status"] == "RUNNING"
        waiting = await call("get_run", runId=run)
        assert waiting["run"]["status"] == "RUNNING"
        assert len(waiting["nodes"]) == 3
        await call("cancel_run", runId=run, reason="closing time")
        world.gates["mcp"].set()
        seen = await call("get_run", runId=run, waitSeconds=40, events=50)
        assert seen["run"]["status"] == "CANCELLED"
        paused = next(one for one in seen["events"] if one["type"] == "PLAN_PAUSED")
        assert (paused["data"]["operator"], paused["data"]["reason"]) == ("operator@acme", "lunch")
        _, told = await call.refused("resume_run", runId=run)
        assert told["status"] == 409


async def test_failures_are_decided_and_runs_started_again(app: FastAPI, working: None) -> None:
    """A node that failed runs again with other inputs, or is skipped; a run that failed is started again."""
    plan = chain("noop", "api-test-picky", name="picky")
    plan["nodes"][1]["inputs"] = {"card": "1"}
    async with tools(app) as call:
        run = (await call("start_run", plan={**plan, "failurePolicy": "pause"}))["runId"]
        seen = await call("get_run", runId=run, waitSeconds=40)
        assert seen["run"]["status"] == "PAUSED"
        _, told = await call.refused("retry_node", runId=run, nodeId="n1")
        assert told["status"] == 409
        await call("retry_node", runId=run, nodeId="n2", inputs={"card": "2"}, reason="another card")
        seen = await call("get_run", runId=run, waitSeconds=40)
        await call("skip_node", runId=run, nodeId="n2", outputs={"receipt": "by hand"})
        assert (await call("get_run", runId=run, waitSeconds=40))["run"]["status"] == "COMPLETED"
        run = (await call("start_run", plan=plan))["runId"]
        assert (await call("get_run", runId=run, waitSeconds=40))["run"]["error"]["type"] == "TOOL_ERROR"
        again = {"runId": run, "inputs": {"n2": {"card": "4242"}}, "idempotencyKey": "again"}
        redriven = (await call("redrive_run", **again))["runId"]
        assert (await call("redrive_run", **again))["runId"] == redriven != run
        assert (await call("get_run", runId=redriven, waitSeconds=40))["run"]["status"] == "COMPLETED"


async def test_a_task_is_decided_by_who_may(app: FastAPI, working: None) -> None:
    """By the digest of what was read; a viewer may look only."""
    async with tools(app) as call, tools(app, "viewer") as viewer, tools(app, "approver") as approver:
        run = (await call("start_run", plan=ASK))["runId"]
        seen = await call("get_run", runId=run, waitSeconds=40)
        assert seen["run"]["status"] == "AWAITING_HITL"
        (asked,) = seen["tasks"]
        assert asked in (await viewer("list_tasks", runId=run))["items"]
        task = await approver("get_task", taskId=asked["taskId"])
        assert task["context"] == {"text": "hello"}
        decision = {"taskId": asked["taskId"], "action": "approve", "digest": task["digest"], "notes": "kim said so"}
        text, told = await viewer.refused("decide_task", **decision)
        assert told["status"] == 403
        assert "Tell the person" in text
        _, told = await approver.refused("decide_task", **{**decision, "digest": "0" * 64})
        assert told["status"] == 409
        assert (await approver("decide_task", **decision))["status"] == "COMPLETED"
        assert (await call("get_run", runId=run, waitSeconds=40))["run"]["status"] == "COMPLETED"


async def test_roles_and_tenants_are_those_of_rest(app: FastAPI, api: Api) -> None:
    """Who may not start may not start here; what belongs to others is not there; errors say what to do."""
    run = await api.execute(chain("noop"))
    async with tools(app, "viewer") as viewer, tools(app, "admin", tenant="globex") as other:
        _, told = await viewer.refused("start_run", plan=chain("noop"))
        assert (told["status"], told["type"]) == (403, "forbidden")
        text, told = await other.refused("get_run", runId=run)
        assert told["status"] == 404
        assert "list_runs" in text
        assert (await other("list_runs"))["items"] == []
        text, told = await viewer.refused("get_run", run=run)
        assert "it takes runId, waitSeconds" in text
        assert {one["pointer"] for one in told["problems"]} == {"/runId", "/run"}
        text, _ = await viewer.refused("start_run", planName="none", planId=run)
        assert "give one of" in text
        with pytest.raises(MCPError, match="validate_plan"):
            await viewer.client.call_tool("nope", {})


@pytest.mark.parametrize("token", [None, "Bearer nobody", "Basic eA=="])
async def test_without_a_token_there_is_nothing(app: FastAPI, api: Api, token: str | None) -> None:
    """As everywhere else: 401 with what is missing."""
    headers = {"Authorization": token} if token else {}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer = await api.client.post("/mcp", json=call, headers={**headers, "Accept": "application/json"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://evil.example", 403), ("null", 403), ("http://localhost:3000", 200), ("http://127.0.0.1:8400", 200)],
)
async def test_pages_of_others_are_refused(api: Api, origin: str, status: int) -> None:
    """The protocol demands it; programs send no origin."""
    headers = {"Accept": "application/json, text/event-stream", "Origin": origin}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer = await api("POST", "/mcp", json=call, headers=headers)
    assert answer.status_code == status


async def test_a_plan_starts_runs_on_another_dalang(app: FastAPI, settings: Settings) -> None:
    """An mcp node of one calls the tools of the other; a second attempt of it starts no second run."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(settings), host="127.0.0.1", port=port, log_config=None))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(PATIENCE):
        while not server.started:
            await asyncio.sleep(0.02)
    where = {
        "url": f"http://127.0.0.1:{port}/mcp",
        "headers": {"Authorization": f"Bearer {TOKENS['acme', 'operator']}"},
    }
    inputs = {"server": where, "tool": "start_run", "arguments": {"plan": chain("noop")}}
    node = Mcp(NamedServers(None))
    with enforcing(Egress.of(["127.0.0.1"])):
        first = await node(NodeContext("n", "n", "mcp", "r", "acme", inputs, "r:n:0:0"))
        again = await node(NodeContext("n", "n", "mcp", "r", "acme", inputs, "r:n:0:0", attempt=2))
        other = await node(NodeContext("m", "m", "mcp", "r", "acme", inputs, "r:m:0:0"))
        assert first["runId"] == again["runId"] != other["runId"]
        wrong = {**inputs, "arguments": {"plan": {"name": "x", "nodes": []}}}
        with pytest.raises(NodeFailure, match="NO_NODES") as caught:
            await node(NodeContext("n", "n", "mcp", "r", "acme", wrong, "r:o:0:0"))
    assert caught.value.details["structured"]["status"] == 422
    server.should_exit = True
    await serving


async def test_without_the_library(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is not there, and says what to install."""
    monkeypatch.setitem(sys.modules, "mcp.server.context", None)
    monkeypatch.delitem(sys.modules, "dalang.mcp_server.serving", raising=False)
    answer = await api("POST", "/mcp", json={})
    assert "pip install 'dalang[mcp]'" in world.problem(answer, 404)["detail"]


async def test_rubbish_is_refused(api: Api) -> None:
    """By the library, without a traceback in the answer; what is too large by its size."""
    accept = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
    for body in (b"", b"{", b"[]", b'{"jsonrpc": "2.0"}', b"\xff"):
        answer = await api("POST", "/mcp", content=body, headers=accept)
        assert 400 <= answer.status_code < 500, (body, answer.text)
        assert "Traceback" not in answer.text
    answer = await api("POST", "/mcp", content=b" " * (20 * 1024 * 1024), headers=accept)
    assert answer.status_code == 413
    assert isinstance(answer, httpx.Response)
