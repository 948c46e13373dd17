"""The node type ``a2a`` with an agent on the real a2a-sdk server, a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dalang.stack.ports import free_port
from dalang.store.agents import AgentKind, NewAgent, register_agent
from dalang.store.engine import transaction
from dalang.store.pools import limited_names
from dalang.trust import trusted
from tests.engine.kit import TENANT, Engine, Started, body_of, node_events
from tests.harness import PATIENCE, ROOT

FAST = {"maxAttempts": 3, "initialDelayMs": 20, "retryOn": ["NETWORK_ERROR", "TIMEOUT", "TOOL_ERROR"]}
WAYS = ("streaming", "plain", "rest", "old")


class Doer:
    """The agent's process."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        program = str(ROOT / "tests/engine/a2a_peer.py")
        self._process = await asyncio.create_subprocess_exec(sys.executable, program, str(self._port))
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await self.seen()
                    return
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """End it, with all that it knew."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def seen(self, about: str | None = None) -> list[dict[str, Any]]:
        """Return the messages (and cancels) that it got; of one run only, by its context."""
        async with httpx.AsyncClient(trust_env=False, verify=trusted()) as client:
            found: list[dict[str, Any]] = (await client.get(f"{self.address}/seen")).json()
        if about is None:
            return found
        mine = [one for one in found if "message" in one and one["message"]["contextId"] == about]
        tasks = {one["task"] for one in mine}
        return [*mine, *(one for one in found if one.get("cancel") in tasks)]


@pytest.fixture(scope="module")
async def doer() -> AsyncIterator[Doer]:
    one = Doer(free_port())
    await one.start()
    yield one
    await one.kill()


def _node(doer: Doer, way: str = "streaming", **more: Any) -> dict[str, Any]:
    inputs = {"url": f"{doer.address}/{way}", "pollInterval": "30ms", **more.pop("inputs", {})}
    return {"nodeId": "call", "type": "a2a", "inputs": inputs, "retryPolicy": FAST, **more}


async def _done(engine: Engine, node: dict[str, Any]) -> dict[str, Any]:
    return await (await engine.start({"nodes": [node]})).end()


async def _answer(started: Started, **decision: Any) -> dict[str, Any]:
    await started.until("HITL_TASK_CREATED")
    task: dict[str, Any] = (await started.handle.query("tasks"))["tasks"][0]
    request = {"taskId": task["taskId"], "action": "answer", "operator": "ann", **decision}
    await started.handle.execute_update("complete_human_task", request)
    return body_of(await started.stored(), "HITL_TASK_CREATED")


async def test_a_task_is_sent_followed_and_put_out(shared_engine: Engine, doer: Doer) -> None:
    """By stream, by polling, over HTTP+JSON, with protocol 0.3: data merges, whole numbers are whole, files told."""
    nodes = [_node(doer, way, inputs={"do": "add", "a": 1, "b": 2, "seconds": 0.1}) for way in WAYS]
    for way, end in zip(WAYS, await asyncio.gather(*(_done(shared_engine, node) for node in nodes)), strict=True):
        outputs = body_of(end, "NODE_COMPLETED")["outputs"]
        about = outputs.pop("a2a")
        assert outputs == {
            "sum": 3,
            "half": 0.5,
            "text": "added",
            "files": [
                {"name": "sum.txt", "mediaType": "text/plain", "url": "https://files.example/sum.txt"},
                {"mediaType": "text/plain", "url": f"artifact://sha256/{hashlib.sha256(b'3').hexdigest()}"},
            ],
        }
        assert isinstance(outputs["sum"], int)
        (sent,) = await doer.seen(about["contextId"])
        assert (about["agent"], sent["task"]) == (f"doer ({way})", about["taskId"])
        assert sent["message"]["parts"] == [{"data": {"do": "add", "a": 1.0, "b": 2.0, "seconds": 0.1}}]


async def test_an_agent_may_answer_at_once_and_wait_is_one_request(shared_engine: Engine, doer: Doer) -> None:
    """A message instead of a task; and a blocking send."""
    node = _node(doer, inputs={"message": ["now", {"do": "message"}], "skill": "do"})
    outputs = body_of(await _done(shared_engine, node), "NODE_COMPLETED")["outputs"]
    assert (outputs["text"], outputs["n"]) == ("at once", 1)
    (sent,) = await doer.seen(outputs["a2a"]["contextId"])
    assert sent["message"]["parts"][0] == {"text": "now"}
    assert sent["message"]["metadata"] == {"skill": "do"}
    end = await _done(shared_engine, _node(doer, inputs={"mode": "wait", "a": 2, "b": 2}))
    assert body_of(end, "NODE_COMPLETED")["outputs"]["sum"] == 4


@pytest.mark.parametrize(("way", "do"), [("streaming", "ask"), ("plain", "ask-plainly"), ("old", "ask")])
async def test_a_question_of_the_agent_is_a_human_task(shared_engine: Engine, doer: Doer, way: str, do: str) -> None:
    """With the agent's form, else a text; the answer goes to the same task, in the same attempt."""
    person = {"candidateGroup": "travellers"}
    started = await shared_engine.start({"nodes": [_node(doer, way, inputs={"do": do, "person": person})]})
    values = {"seat": "aisle"} if do == "ask" else {"answer": "a sandwich"}
    asked = await _answer(started, values=values)
    assert asked["title"] == ("Which seat?" if do == "ask" else "What else?")
    assert asked["context"] == {"agent": f"doer ({way})", **({"free": 2} if do == "ask" else {})}
    end = await started.end()
    outputs = body_of(end, "NODE_COMPLETED")["outputs"]
    assert outputs["answered"] == (values if do == "ask" else "a sandwich")
    first, second = await doer.seen(outputs["a2a"]["contextId"])
    assert first["task"] == second["task"] == outputs["a2a"]["taskId"]
    assert end["nodes"]["call"]["attempt"] == 1
    created = next(row for row in end["events"] if row["type"] == "HITL_TASK_CREATED")
    assert created["data"]["group"] == "travellers"


@pytest.mark.parametrize(
    ("do", "kind", "tasks", "message"),
    [
        ("fail", "TOOL_ERROR", 3, "no paper"),
        ("reject", "TOOL_ERROR", 1, "not my job"),
        ("auth", "POLICY_VIOLATION", 1, "who are you?"),
    ],
)
async def test_how_a_task_ends_without_success(
    shared_engine: Engine, doer: Doer, do: str, kind: str, tasks: int, message: str
) -> None:
    """What failed may be tried again, as another task with another message; what was rejected is not."""
    started = await shared_engine.start({"nodes": [_node(doer, "plain", inputs={"do": do})]})
    error = body_of(await started.end(), "NODE_FAILED")["error"]
    assert error["type"] == kind
    assert message in error["message"]
    mine = [one for one in await doer.seen() if one.get("task") == error["details"]["taskId"]]
    seen = await doer.seen(mine[0]["message"]["contextId"])
    assert len({one["task"] for one in seen}) == len({one["message"]["messageId"] for one in seen}) == tasks


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancel_reaches_the_agent(shared_engine: Engine, doer: Doer, way: str) -> None:
    """The task that is at work is cancelled."""
    started = await shared_engine.start(
        {"nodes": [_node(doer, way, inputs={"seconds": 60, "message": {"way": way, "seconds": 60}})]}
    )
    async with asyncio.timeout(PATIENCE):
        while not (
            sent := [
                o
                for o in await doer.seen()
                if o.get("message", {}).get("parts") == [{"data": {"way": way, "seconds": 60.0}}]
            ]
        ):
            await asyncio.sleep(0.03)
    await started.handle.signal("cancel", {"reason": "enough"})
    end = await started.end()
    assert end["nodes"]["call"]["status"] == "CANCELLED"
    async with asyncio.timeout(PATIENCE):
        while {"cancel": sent[0]["task"]} not in await doer.seen():
            await asyncio.sleep(0.03)


async def test_what_is_at_work_is_found_again(shared_engine: Engine, doer: Doer) -> None:
    """The first attempt runs out of time; the second goes on with the same task."""
    node = _node(doer, "plain", inputs={"seconds": 1.5, "a": 1, "b": 1}, timeouts={"startToClose": "1s"})
    end = await _done(shared_engine, node)
    outputs = body_of(end, "NODE_COMPLETED")["outputs"]
    assert end["nodes"]["call"]["attempt"] == 2
    assert len(await doer.seen(outputs["a2a"]["contextId"])) == 1


async def test_an_agent_that_has_forgotten_its_task_is_asked_again(shared_engine: Engine, doer: Doer) -> None:
    """It died in the middle and came back without memory: the same message again, under the same id."""
    known = len(await doer.seen())
    started = await shared_engine.start({"nodes": [_node(doer, inputs={"seconds": 1, "a": 1, "b": 1})]})
    async with asyncio.timeout(PATIENCE):
        while len(before := await doer.seen()) == known:
            await asyncio.sleep(0.03)
    await doer.kill()
    await doer.start()
    end = await started.end()
    assert body_of(end, "NODE_COMPLETED")["outputs"]["sum"] == 2
    assert [one["message"]["messageId"] for one in await doer.seen()] == [before[-1]["message"]["messageId"]]


async def test_an_undo_cancels_what_waits_for_an_answer(shared_engine: Engine, doer: Doer) -> None:
    """Nobody works on a node that waits for a person, so a compensation tells the agent."""
    inputs = {"url": f"{doer.address}/plain", "cancel": True}
    node = _node(doer, "plain", inputs={"do": "ask"}, compensation={"type": "a2a", "inputs": inputs})
    started = await shared_engine.start({"nodes": [node]})
    await started.until("HITL_TASK_CREATED")
    await started.handle.signal("cancel", {"reason": "enough"})
    end = await started.end()
    (task,) = body_of(end, "NODE_COMPENSATED")["undoOutputs"]["cancelled"]
    assert {"cancel": task} in await doer.seen()


async def _registered(engine: Engine, doer: Doer, capability: str, ways: tuple[str, ...]) -> list[str]:
    """Register agents of kind a2a; return what is limited then."""
    async with transaction(engine.db, TENANT) as conn:
        for way in ways:
            endpoint = {"url": f"{doer.address}/{way}"}
            kind, name = str(AgentKind.A2A), f"{capability}-{way}"
            await register_agent(conn, NewAgent(TENANT, name, kind, name, {capability: 1.0}, 3, "t", {}, endpoint))
        return await limited_names(conn, TENANT)


async def test_an_agent_of_the_registry_does_it(shared_engine: Engine, doer: Doer) -> None:
    """A node that asks for a capability goes to an agent of kind a2a, with all its inputs."""
    limits = await _registered(shared_engine, doer, "adding", ("plain",))
    node = {"nodeId": "n", "type": "agent", "inputs": {"a": 4, "b": 5}, "requirements": {"capabilities": ["adding"]}}
    end = await (await shared_engine.start({"nodes": [node]}, limits=limits)).end()
    outputs = body_of(end, "NODE_COMPLETED")["outputs"]
    assert (outputs["sum"], outputs["a2a"]["agent"]) == (9, "doer (plain)")
    assert "NODE_QUEUED" in node_events(end, "n")


async def test_the_answer_goes_to_the_agent_that_asked(shared_engine: Engine, doer: Doer) -> None:
    """Though another one could do it, too, and a node that is tried again goes to another."""
    limits = await _registered(shared_engine, doer, "asking", ("plain", "streaming"))
    node = {"nodeId": "n", "type": "agent", "inputs": {"do": "ask"}, "requirements": {"capabilities": ["asking"]}}
    started = await shared_engine.start({"nodes": [node]}, limits=limits)
    await _answer(started, values={"seat": "aisle"})
    end = await started.end()
    outputs = body_of(end, "NODE_COMPLETED")["outputs"]
    assert outputs["answered"] == {"seat": "aisle"}
    first, second = await doer.seen(outputs["a2a"]["contextId"])
    assert first["task"] == second["task"]
    assert end["nodes"]["n"]["attempt"] == 1
