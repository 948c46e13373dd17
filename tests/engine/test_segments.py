"""Nodes that are run together, on the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.engine.kit import Engine, Started, body_of, node_events, noop_chain
from tests.harness import PATIENCE

FAST = {"initialDelayMs": 10, "maxDelayMs": 20}


def _edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"sourceNodeId": source, "targetNodeId": target, **more}


async def _activities(started: Started, own: Sequence[str] = ("record", "admit")) -> list[str]:
    """Return the types of the activities of nodes and segments, in the order they were begun."""
    found = []
    async for event in started.handle.fetch_history_events():
        name = event.activity_task_scheduled_event_attributes.activity_type.name
        if name and name not in own:
            found.append(name)
    return found


async def test_a_chain_of_local_nodes_is_one_activity(shared_engine: Engine) -> None:
    """Values flow through it, and what is stored of each node is what is stored of any other."""
    chain = noop_chain(40)
    chain["nodes"][0]["inputs"] = {"x": "${inputs.x + 1}"}
    started = await shared_engine.start(
        {**chain, "execution": "local", "outputs": {"x": "${nodes.n39.outputs.x}"}}, {"x": 1}
    )
    end = await started.end()
    assert end["result"]["outputs"] == {"x": 2}
    assert await _activities(started) == ["segment"]
    assert {row["status"] for row in end["nodes"].values()} == {"SUCCESS"}
    assert node_events(end, "n7") == ["NODE_STARTED", "NODE_COMPLETED"]
    assert body_of(end, "NODE_STARTED", "n7") == {"inputs": {"x": 2}}
    assert end["nodes"]["n7"]["attempt"] == 1
    assert await shared_engine.chain_problem(started.run_id) is None


async def test_a_node_that_fails_goes_on_by_itself(shared_engine: Engine) -> None:
    """Its first attempt counts; what depends on it waits, and nothing else does."""
    plan = {
        "execution": "local",
        "failurePolicy": "continue",
        "nodes": [
            {"nodeId": "a", "type": "noop"},
            {"nodeId": "f", "type": "t-flaky", "retryPolicy": FAST},
            {"nodeId": "after", "type": "t-context"},
            {"nodeId": "b", "type": "noop"},
            {"nodeId": "bad", "type": "t-flaky", "inputs": {"type": "TOOL_ERROR"}},
            {"nodeId": "handler", "type": "t-value"},
        ],
        "edges": [
            _edge("a", "f"),
            _edge("f", "after"),
            _edge("a", "b"),
            _edge("a", "bad"),
            _edge("bad", "handler", sourcePort="error", mapping={"type": "kind"}),
        ],
    }
    started = await shared_engine.start(plan)
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert body_of(end, "NODE_COMPLETED", "f")["outputs"]["attempt"] == 3
    assert end["nodes"]["f"]["attempt"] == 3
    assert [row["attempt"] for row in end["attempts"] if row["node_id"] == "f"] == [1, 2]
    assert node_events(end, "bad") == ["NODE_STARTED", "NODE_ERROR"]
    assert body_of(end, "NODE_COMPLETED", "handler")["outputs"]["kind"] == "TOOL_ERROR"
    assert set(await _activities(started)) == {"segment", "t-flaky"}


async def test_inputs_that_cannot_be_made_fail_their_node(shared_engine: Engine) -> None:
    """The worker leaves it to the run, which gave it out again and again, and never ended."""
    plan = {
        "execution": "local",
        "failurePolicy": "continue",
        "nodes": [
            {"nodeId": "a", "type": "noop", "inputs": {"text": "x"}},
            {"nodeId": "bad", "type": "noop", "inputs": {"number": "${int(nodes.a.outputs.text)}"}},
            {"nodeId": "root", "type": "noop", "inputs": {"number": "${int('x')}"}},
            {"nodeId": "z", "type": "noop"},
        ],
        "edges": [_edge("a", "bad"), _edge("bad", "z")],
    }
    end = await (await shared_engine.start(plan)).end()
    assert end["run"]["status"] == "FAILED"
    for name in ("bad", "root"):
        assert end["nodes"][name]["status"] == "FAILED"
        assert body_of(end, "NODE_FAILED", name)["error"]["type"] == "VALIDATION_ERROR"
    assert end["nodes"]["z"]["status"] == "SKIPPED"


async def test_a_question_takes_a_node_out_of_its_segment(shared_engine: Engine) -> None:
    """It is asked as by any other node."""
    plan = {
        "execution": "local",
        "nodes": [{"nodeId": "a", "type": "noop"}, {"nodeId": "q", "type": "t-asks"}, {"nodeId": "z", "type": "noop"}],
        "edges": [_edge("a", "q"), _edge("q", "z")],
    }
    started = await shared_engine.start(plan)
    await started.until("HITL_TASK_CREATED", "q")
    assert (await started.handle.query("status"))["nodeStatusCounts"]["SUCCESS"] == 1
    await started.handle.execute_update("cancel", {})
    assert (await started.end())["run"]["status"] == "CANCELLED"


async def test_a_cancel_takes_what_was_done_and_stops_the_rest(shared_engine: Engine) -> None:
    """The node that is at work is stopped; nodes after it never begin."""
    plan = {
        "execution": "local",
        "nodes": [{"nodeId": "a", "type": "noop"}, {"nodeId": "h", "type": "t-hang"}, {"nodeId": "z", "type": "noop"}],
        "edges": [_edge("a", "h"), _edge("h", "z")],
    }
    started = await shared_engine.start(plan)
    async with asyncio.timeout(PATIENCE):
        while not await _activities(started):
            await asyncio.sleep(0.05)
    await started.handle.execute_update("cancel", {})
    end = await started.end()
    assert end["run"]["status"] == "CANCELLED"
    assert {name: row["status"] for name, row in end["nodes"].items()} == {
        "a": "SUCCESS",
        "h": "CANCELLED",
        "z": "CANCELLED",
    }


async def test_the_first_small_segment_needs_no_activity_of_its_own(shared_engine: Engine) -> None:
    """It is worked on within the workflow task, which a crash would repeat; so the next one is not, nor the storing."""
    plan = {
        "execution": "local",
        "nodes": [
            {"nodeId": "a", "type": "noop", "inputs": {"x": 1}},
            {"nodeId": "bad", "type": "t-fail", "timeouts": {"startToClose": "2s"}, "retryPolicy": {"maxAttempts": 1}},
            {"nodeId": "z", "type": "noop"},
        ],
        "edges": [_edge("a", "z"), _edge("a", "bad"), _edge("bad", "z", sourcePort="error", mapping={"type": "kind"})],
    }
    started = await shared_engine.start(plan)
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert body_of(end, "NODE_COMPLETED", "z")["outputs"] == {"x": 1, "kind": "TOOL_ERROR"}
    assert [row["attempt"] for row in end["attempts"]] == [1]
    assert await started.engine.chain_problem(started.run_id) is None
    assert await _activities(started) == ["segment"]
    assert "record" in await _activities(started, own=())
