"""Timers and external events on the real engine: signals, updates, bad ones, continue-as-new."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowUpdateFailedError

from tests.engine.kit import Engine, Started, body_of, node_events, noop_chain


def _event(node_id: str, **inputs: Any) -> dict[str, Any]:
    return {"nodeId": node_id, "type": "event", "inputs": {"name": "paid", **inputs}}


async def _tell(started: Started, **payload: Any) -> None:
    await started.handle.signal("external_event", {"name": "paid", **payload})


async def test_timers_fire_in_their_order(shared_engine: Engine) -> None:
    """Each after its duration or at its time; one timer of Temporal serves all of them."""
    soon = datetime.now(UTC) + timedelta(milliseconds=900)
    plan = {
        "nodes": [
            {"nodeId": "t", "type": "timer", "inputs": {"duration": "300ms"}},
            {"nodeId": "day", "type": "timer", "inputs": {"until": "${inputs.at}"}},
            {"nodeId": "bad", "type": "timer", "inputs": {"until": "${inputs.bad}"}},
        ],
        "failurePolicy": "continue",
    }
    started = await shared_engine.start(plan, {"at": soon.isoformat(), "bad": "tomorrow"})
    end = await started.end()
    assert {name: node["status"] for name, node in end["nodes"].items()} == {
        "t": "SUCCESS",
        "day": "SUCCESS",
        "bad": "FAILED",
    }
    fired = [
        datetime.fromisoformat(body_of(end, "NODE_COMPLETED", name)["outputs"]["firedAt"]) for name in ("t", "day")
    ]
    assert fired[0] < fired[1]
    assert timedelta(milliseconds=-1) <= fired[1] - soon < timedelta(seconds=5)


async def test_events_reach_the_nodes_that_wait(shared_engine: Engine) -> None:
    """By signal and by update, early, late and twice; the payload becomes outputs; the chain verifies."""
    plan = {
        "nodes": [
            {"nodeId": "g", "type": "timer", "inputs": {"duration": "500ms"}},
            _event("a", correlationKey="${inputs.order}"),
            _event("b", correlationKey="${inputs.order}"),
        ],
        "edges": [{"sourceNodeId": "g", "targetNodeId": "a"}, {"sourceNodeId": "a", "targetNodeId": "b"}],
        "outputs": {"a": "${nodes.a.outputs.n}", "b": "${nodes.b.outputs.n}"},
    }
    started = await shared_engine.start(plan, {"order": "7"})
    for _ in range(2):
        await _tell(started, correlationKey="7", payload={"n": 1}, eventId="one")
    await _tell(started, correlationKey="8", payload={"n": 2})
    await started.until("NODE_WAITING", "b")
    answer = await started.handle.execute_update(
        "external_event", {"name": "paid", "correlationKey": "7", "payload": {"n": 3}, "operator": "ann"}
    )
    assert answer["runId"] == started.run_id
    end = await started.end()
    assert end["result"]["outputs"] == {"a": 1, "b": 3}
    assert node_events(end, "a") == ["NODE_STARTED", "NODE_COMPLETED"]
    assert node_events(end, "b") == ["NODE_STARTED", "NODE_WAITING", "NODE_COMPLETED"]
    assert sum(row["type"] == "EVENT_RECEIVED" for row in end["events"]) == 2
    assert await shared_engine.chain_problem(started.run_id) is None


@pytest.mark.parametrize(
    "payload",
    [
        None,
        5,
        {},
        {"name": ""},
        {"name": 5},
        {"name": "x" * 201},
        {"name": "paid", "correlationKey": 7},
        {"name": "paid", "payload": [1]},
        {"name": "paid", "payload": {"x": 2**60}},
        {"name": "paid", "payload": {"x": "y" * 300_000}},
        {"name": "paid", "eventId": {}},
        {"name": "paid", "key": "7"},
    ],
)
async def test_a_malformed_event_harms_nobody(shared_engine: Engine, payload: Any) -> None:
    """As an update it is refused with a sentence, as a signal it is recorded; the node goes on waiting."""
    started = await shared_engine.start({"nodes": [_event("a")]})
    await started.until("NODE_WAITING", "a")
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await started.handle.execute_update("external_event", payload)
    assert getattr(refusal.value.cause, "type", None) == "INVALID_REQUEST"
    await started.handle.signal("external_event", payload)
    await started.until("REQUEST_REJECTED")
    await _tell(started)
    assert (await started.end())["run"]["status"] == "COMPLETED"


async def test_a_wait_goes_on_over_continue_as_new(shared_engine: Engine) -> None:
    """Waits, their alarms, kept events and the ids that were heard are carried over."""
    chain = noop_chain(60)
    plan = {
        "nodes": [*chain["nodes"], _event("a"), _event("late", correlationKey="x", timeout="2s")],
        "edges": [*chain["edges"], {"sourceNodeId": "n59", "targetNodeId": "last"}],
        "failurePolicy": "continue",
    }
    plan["nodes"] += [_event("last"), _event("end", correlationKey="end")]
    started = await shared_engine.start(plan, historyLimit=100)
    await _tell(started, payload={"n": 1}, eventId="one")
    await _tell(started, payload={"n": 2}, eventId="two")
    await started.until("NODE_COMPLETED", "n59")
    await _tell(started, payload={"n": 1}, eventId="one")
    await _tell(started, correlationKey="end")
    end = await started.end()
    assert {name: end["nodes"][name]["status"] for name in ("a", "last", "late")} == {
        "a": "SUCCESS",
        "last": "SUCCESS",
        "late": "FAILED",
    }
    assert body_of(end, "NODE_COMPLETED", "last")["outputs"]["n"] == 2
    assert end["run"]["error"]["type"] == "TIMEOUT"
    first = shared_engine.client.get_workflow_handle(started.handle.id, run_id=started.handle.first_execution_run_id)
    assert str((await first.describe()).status) == "6"  # CONTINUED_AS_NEW


async def test_a_cancel_ends_waits_at_once(shared_engine: Engine) -> None:
    """Nothing outside has to answer."""
    started = await shared_engine.start(
        {"nodes": [_event("a"), {"nodeId": "t", "type": "timer", "inputs": {"duration": "1h"}}]}
    )
    await started.until("NODE_WAITING", "t")
    await started.handle.execute_update("cancel", {})
    end = await started.end()
    assert {node["status"] for node in end["nodes"].values()} == {"CANCELLED"}


async def test_callbacks_over_continue_as_new(shared_engine: Engine) -> None:
    """Acknowledgements, large ones among them, and waits are carried over."""
    chain = noop_chain(60)
    asks = [{"nodeId": name, "type": "t-size", "inputs": {"kilobytes": 20}, "callback": {}} for name in ("a", "b")]
    plan = {
        "nodes": [*asks, *chain["nodes"]],
        "edges": chain["edges"],
        "failurePolicy": "continue",
        "outputs": {"size": "${size(nodes.b.outputs.acknowledgement.text)}", "n": "${nodes.a.outputs.n}"},
    }
    started = await shared_engine.start(plan, historyLimit=100)
    await started.until("NODE_WAITING", "a")
    await started.handle.signal("callback", {"nodeId": "a", "callbackId": "1", "outputs": {"n": 1}})
    await started.until("NODE_COMPLETED", "n59")
    await started.handle.signal("callback", {"nodeId": "b", "callbackId": "2"})
    end = await started.end()
    assert end["result"]["outputs"] == {"size": 20 * 1024, "n": 1}


@pytest.mark.parametrize(
    "payload",
    [
        None,
        {"nodeId": "a"},
        {"callbackId": "1"},
        {"nodeId": "a", "callbackId": "1", "generation": -1},
        {"nodeId": "a", "callbackId": "1", "generation": "x"},
        {"nodeId": "a", "callbackId": "1", "outputs": []},
        {"nodeId": "a", "callbackId": "1", "error": {"type": ["TIMEOUT"]}},
        {"nodeId": "a", "callbackId": "1", "error": {"type": "TIMEOUT", "retryable": "yes"}},
        {"nodeId": "a", "callbackId": "1", "error": {"suggestedAction": "DANCE"}},
        {"nodeId": "a", "callbackId": "1", "token": "x"},
    ],
)
async def test_a_malformed_callback_harms_nobody(shared_engine: Engine, payload: Any) -> None:
    """Refused as an update, recorded as a signal; the node goes on waiting for its answer."""
    started = await shared_engine.start({"nodes": [{"nodeId": "a", "type": "t-value", "callback": {}}]})
    await started.until("NODE_WAITING", "a")
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await started.handle.execute_update("callback", payload)
    assert getattr(refusal.value.cause, "type", None) == "INVALID_REQUEST"
    await started.handle.signal("callback", payload)
    await started.until("REQUEST_REJECTED")
    await started.handle.signal("callback", {"nodeId": "a", "callbackId": "2"})
    assert (await started.end())["run"]["status"] == "COMPLETED"
