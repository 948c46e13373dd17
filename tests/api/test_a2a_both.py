"""Dalang asks Dalang: a node of type ``a2a`` on one side, the agent on the other; and what must outlive a caller."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
import uvicorn

from dalang.api.app import create_app
from dalang.stack.ports import free_port
from dalang.store.engine import transaction
from dalang.store.retention import erase_bodies
from tests.api import world
from tests.api.a2a_kit import V1, Served, message
from tests.harness import PATIENCE

ASKS = {
    "name": "asks",
    "inputs": {"type": "object", "properties": {"topic": {"type": "string"}, "n": {"type": "integer"}}},
    "nodes": [
        {
            "nodeId": "ask",
            "type": "human",
            "inputs": {"topic": "${inputs.topic}"},
            "task": {
                "title": "What of ${inputs.topic}?",
                "form": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
            },
        }
    ],
    "outputs": {"said": "${nodes.ask.outputs.text}", "twice": "${inputs.n * 2}"},
}


async def started(served: Served, skill: str) -> str:
    """Start a run of one tenant whose only node asks the agent for a plan of another."""
    headers = {"Authorization": f"Bearer {world.TOKENS['globex', 'operator']}"}
    inputs = {"url": served.url, "skill": skill, "headers": headers, "topic": "puppets", "n": 21}
    node = {"nodeId": "other", "type": "a2a", "inputs": inputs}
    plan = {"name": "caller", "nodes": [node], "outputs": {"from": "${nodes.other.outputs}"}}
    response = await served("POST", "/orchestrator/execute", json={"plan": plan})
    assert response.status_code == 202, response.text
    return str(response.json()["runId"])


async def open_task(served: Served, run_id: str) -> dict[str, Any]:
    """Wait for the open human task of a run."""
    async with asyncio.timeout(PATIENCE):
        while True:
            response = await served("GET", f"/orchestrator/human-tasks?open=true&runId={run_id}")
            items = response.json()["items"]
            if items:
                found: dict[str, Any] = items[0]
                return found
            await asyncio.sleep(0.05)


async def ended(served: Served, run_id: str, tenant: str) -> dict[str, Any]:
    """Wait for a run's end."""
    async with asyncio.timeout(PATIENCE):
        while True:
            run = (await served("GET", f"/orchestrator/runs/{run_id}", as_=(tenant, "operator"))).json()
            if run["completedAt"]:
                found: dict[str, Any] = run
                return found
            await asyncio.sleep(0.05)


async def test_a_question_goes_through_both_and_the_answer_back(served: Served) -> None:
    """What the inner run asks becomes a task of the outer one; what is said there is the inner one's value."""
    await served.publish(ASKS, tenant="globex")
    run_id = await started(served, "asks")
    asked = await open_task(served, run_id)
    detail = (await served("GET", f"/orchestrator/human-tasks/{asked['taskId']}")).json()
    assert "What of puppets?" in detail["title"] + str(detail["description"])
    body = {"digest": detail["digest"], "action": detail["actions"][0], "values": {"text": "they move"}}
    done = await served("POST", f"/orchestrator/human-tasks/{asked['taskId']}/complete", json=body)
    assert done.status_code == 200, done.text
    run = await ended(served, run_id, "acme")
    assert run["status"] == "COMPLETED", run["error"]
    found = run["outputs"]["from"]
    assert (found["said"], found["twice"]) == ("they move", 42)
    inner = await ended(served, found["a2a"]["taskId"], "globex")
    assert (inner["status"], inner["outputs"]["said"]) == ("COMPLETED", "they move")


async def test_a_decision_goes_through_both(served: Served) -> None:
    """Who decides about the outer run's question sees what the inner one is for, and chooses what becomes of it."""
    form = {"type": "object", "properties": {"channel": {"type": "string"}}, "required": ["channel"]}
    node = {"nodeId": "ask", "type": "human", "task": {"title": "Publish?", "form": form}}
    outputs = {"to": "${nodes.ask.outputs.channel}"}
    await served.publish({"name": "approves", "nodes": [node], "outputs": outputs}, tenant="globex")
    run_id = await started(served, "approves")
    asked = await open_task(served, run_id)
    detail = (await served("GET", f"/orchestrator/human-tasks/{asked['taskId']}")).json()
    assert detail["form"]["properties"]["values"] == form
    values = {"action": "approve", "values": {"channel": "blog"}}
    body = {"digest": detail["digest"], "action": "answer", "values": values}
    done = await served("POST", f"/orchestrator/human-tasks/{asked['taskId']}/complete", json=body)
    assert done.status_code == 200, done.text
    run = await ended(served, run_id, "acme")
    assert run["status"] == "COMPLETED", run["error"]
    assert run["outputs"]["from"]["text"] == "blog"


async def test_a_cancel_goes_through_both(served: Served) -> None:
    """The outer run's end is the inner one's."""
    sleep = {"nodeId": "sleep", "type": "sleep", "inputs": {"duration": "1h"}}
    await served.publish({"name": "sleeps", "nodes": [sleep]}, tenant="globex")
    run_id = await started(served, "sleeps")
    async with asyncio.timeout(PATIENCE):
        inner: list[dict[str, Any]] = []
        while not inner:
            response = await served("GET", "/orchestrator/runs?plan=sleeps&active=true", as_=("globex", "viewer"))
            inner = response.json()["items"]
            await asyncio.sleep(0.05)
    await served("POST", f"/orchestrator/runs/{run_id}/cancel")
    assert (await ended(served, run_id, "acme"))["status"] == "CANCELLED"
    assert (await ended(served, inner[0]["runId"], "globex"))["status"] == "CANCELLED"


async def test_a_caller_that_goes_away_leaves_the_run_and_nothing_else(served: Served) -> None:
    """Who asks again with the same message gets the same task; nobody waits for whom nobody hears."""
    await served.publish({"name": "held", "nodes": [{"nodeId": "go", "type": "event", "inputs": {"name": "go"}}]})
    body = {"message": message(metadata={"skill": "held"})}
    headers = {**V1, "Authorization": f"Bearer {world.TOKENS['acme', 'operator']}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=0.3) as impatient:
        for path in ("/a2a/rest/message:send", "/a2a/rest/message:stream"):
            with pytest.raises(httpx.ReadTimeout):
                await impatient.post(path, json=body)
    async with asyncio.timeout(PATIENCE):
        while not (runs := (await served("GET", "/orchestrator/runs?plan=held")).json()["items"]):
            await asyncio.sleep(0.05)
    [run] = runs
    await served("POST", f"/orchestrator/runs/{run['runId']}/events", json={"name": "go"})
    task = (await served("POST", "/a2a/rest/message:send", json=body)).json()["task"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    listed = (await served("GET", f"/a2a/rest/tasks?contextId={task['contextId']}")).json()
    assert [one["id"] for one in listed["tasks"]] == [task["id"]]
    async with asyncio.timeout(PATIENCE):
        while served.services.feed._count:
            await asyncio.sleep(0.05)


async def test_a_stream_goes_on_at_another_server(served: Served) -> None:
    """Nothing of a task is in the memory of the server that took it: a second one ends, the first tells the rest."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(served.settings), port=port, log_config=None, access_log=False))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    headers = {**V1, "Authorization": f"Bearer {world.TOKENS['acme', 'operator']}"}
    states = []
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as other:
        body = {"message": message(kind="input-required")}
        task = (await other.post("/a2a/rest/message:send", json=body)).json()["task"]
        async with other.stream("GET", f"/a2a/rest/tasks/{task['id']}:subscribe") as response:
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    states.append(json.loads(line[5:])["task"]["status"]["state"])
                    break
    server.should_exit = True
    await running
    assert states == ["TASK_STATE_INPUT_REQUIRED"]
    path = f"/a2a/rest/tasks/{task['id']}:subscribe"
    rest = asyncio.create_task(served("GET", path))
    answer = {"message": message("nothing", taskId=task["id"])}
    assert (await served("POST", "/a2a/rest/message:send", json=answer)).status_code == 200
    told = [json.loads(line[5:]) for line in (await rest).text.splitlines() if line.startswith("data:")]
    assert told[0]["task"]["id"] == task["id"]
    assert (told[-1].get("statusUpdate") or told[-1]["task"])["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_what_was_said_is_erased_with_the_run(served: Served) -> None:
    """Messages are what users put in; the task stays."""
    task = (await served("POST", "/a2a/rest/message:send", json={"message": message("a secret")})).json()["task"]
    async with transaction(served.services.engine, "acme") as conn:
        await erase_bodies(conn, "acme", task["id"])
    found = await served("GET", f"/a2a/rest/tasks/{task['id']}")
    assert found.json()["status"]["state"] == "TASK_STATE_COMPLETED"
    assert "secret" not in found.text
