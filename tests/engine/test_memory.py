"""Nodes that are given what was done before: functions, agents that ask for work, agents on task queues."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from temporalio import activity
from temporalio.worker import Worker

from dalang.activities.a2a.call import call_of
from dalang.activities.a2a.work import Work
from dalang.nodes import Memory, NodeContext, Session
from dalang.store.engine import create_engine
from tests.engine.agents import Client, api, outputs, register, start, wants
from tests.engine.kit import Engine, node_events
from tests.engine.remembering import visible

BEFORE = {"nodeId": "n", "name": "Implement the basket page", "type": "t-value", "inputs": {"shop": "snowdrops"}}


@pytest.fixture
async def before(shared_engine: Engine) -> str:
    """A run that did something like it."""
    started = await shared_engine.start({"name": "shop", "nodes": [BEFORE]})
    assert (await started.end())["run"]["status"] == "COMPLETED"
    await visible(shared_engine.db)
    return started.run_id


def given(end: dict[str, Any], node: str = "n") -> Any:
    return outputs(end, node)["memory"]


async def test_a_node_is_given_what_was_done_under_its_name(shared_engine: Engine, before: str) -> None:
    """The best fit first, with what went in and came out; and nothing without the field."""
    nodes = [
        {"nodeId": "n", "name": "implement-basket", "type": "m-tell", "memory": {"episodes": 3}},
        {"nodeId": "other", "type": "m-tell", "memory": {"query": "snowdrops", "episodes": 1}},
        {"nodeId": "none", "type": "m-tell"},
    ]
    end = await (await shared_engine.start({"nodes": nodes})).end()
    first = given(end)["episodes"][0]
    assert (first["runId"], first["nodeId"], first["outcome"], first["source"]) == (before, "n", "SUCCESS", "dalang")
    assert first["inputs"] == first["outputs"] == {"shop": "snowdrops"}
    assert len(given(end)["episodes"]) <= 3
    assert given(end, "other")["episodes"][0]["runId"] == before
    assert given(end, "none") == {"episodes": []}


async def test_an_agent_that_asks_for_work_is_given_it_too(shared_engine: Engine, before: str) -> None:
    await register(shared_engine, "mem", capabilities={"m-poll": 1})
    started = await start(shared_engine, wants("n", "m-poll", name="basket page", memory={"episodes": 50}))
    async with api(shared_engine) as http:
        one = await Client(http, "mem").poll()
        assert before in [each["runId"] for each in one["nodeTask"]["memory"]["episodes"]]
        await Client(http, "mem").tell(one, "complete")
    assert (await started.end())["run"]["status"] == "COMPLETED"


async def test_an_agent_on_a_task_queue_is_given_it_too(shared_engine: Engine, before: str) -> None:
    """But no session, which it could not work in."""
    queue = f"mem-{uuid.uuid4().hex[:8]}"
    seen: list[Any] = []

    @activity.defn(name="agent")
    async def work(task: Any) -> Any:
        seen.append(task["memory"])
        return {"outputs": {}}

    await register(shared_engine, "queued", "taskQueue", capabilities={"m-queue": 1}, endpoint={"taskQueue": queue})
    async with Worker(shared_engine.client, task_queue=queue, activities=[work]):
        started = await start(shared_engine, wants("n", "m-queue", name="basket", memory={"episodes": 50}))
        assert (await started.end())["run"]["status"] == "COMPLETED"
        assert before in [each["runId"] for each in seen[0]["episodes"]]
        session = {"session": {"repository": "site"}}
        end = await (await start(shared_engine, wants("n", "m-queue", memory=session))).end()
    assert end["run"]["error"]["type"] == "VALIDATION_ERROR"
    assert "session" in end["run"]["error"]["message"]
    assert len(seen) == 1


async def test_a_node_works_without_when_nobody_can_tell(
    shared_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done before is help, not a condition."""
    gone = create_engine("postgresql://nobody:x@127.0.0.1:1/none", pooled=False)
    monkeypatch.setattr("dalang.activities.memory.remember", lambda *_: _fails(gone))
    node = {"nodeId": "n", "type": "m-tell", "memory": {}}
    end = await (await shared_engine.start({"nodes": [node]})).end()
    assert given(end) == {"episodes": []}
    assert node_events(end, "n") == ["NODE_STARTED", "NODE_COMPLETED"]


async def _fails(gone: Any) -> None:
    async with gone.connect():
        pass


def test_a_handler_sees_what_it_was_given() -> None:
    """A context of a test has no memory; a token of a session is told to nobody else."""
    ctx = NodeContext("n", "n", "t", "r", "t", {}, "k")
    assert (ctx.episodes, ctx.session) == ((), None)
    session = Session("cortex", "s1", workspace="w", token="secret", paths=("src/**",))
    ctx.memory = Memory(({"name": "x"},), session)
    assert ctx.session is session
    assert ctx.memory.wire() == {
        "episodes": [{"name": "x"}],
        "session": {"kind": "cortex", "id": "s1", "workspace": "w", "paths": ["src/**"], "readOnlyPaths": []},
    }
    assert "secret" not in repr(ctx)


def test_an_agent_behind_a2a_is_given_it_in_the_metadata_of_the_message() -> None:
    """Beside what the plan has there; without a memory there is nothing."""
    ctx = NodeContext("n", "n", "a2a", "r", "t", {}, "k")
    peer: Any = None
    call = call_of({"url": "https://agent.example", "message": "do it", "metadata": {"a": 1}})
    assert Work(ctx, call, peer)._first()["metadata"] == {"a": 1}
    ctx.memory = Memory(({"name": "x"},))
    assert Work(ctx, call, peer)._first()["metadata"] == {"a": 1, "memory": {"episodes": [{"name": "x"}]}}
