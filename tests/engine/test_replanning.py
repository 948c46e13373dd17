"""Other plans for runs that go on, on the real engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateStage
from temporalio.exceptions import ApplicationError

from dalang.store.engine import transaction
from tests.engine.kit import TENANT, Engine, Started, body_of, node_events, noop_chain
from tests.harness import PATIENCE, servers


def _edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"sourceNodeId": source, "targetNodeId": target, **more}


def _gated(path: Path, **more: Any) -> dict[str, Any]:
    """a, then a gate that opens when a file is there, then z."""
    return {
        "nodes": [
            {"nodeId": "a", "type": "t-value", "inputs": {"x": 1}},
            {"nodeId": "gate", "type": "t-wait-file", "inputs": {"path": str(path)}},
            {"nodeId": "z", "type": "t-value"},
        ],
        "edges": [_edge("a", "gate", mapping={}), _edge("gate", "z")],
        **more,
    }


PATCH = {
    "addNodes": [{"nodeId": "n", "type": "t-value", "inputs": {"seen": "${nodes.a.outputs.x}"}}],
    "addEdges": [_edge("a", "n"), _edge("n", "z")],
}


async def _refused(started: Started, payload: Any) -> ApplicationError:
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await started.handle.execute_update("replan", payload)
    assert isinstance(refusal.value.cause, ApplicationError)
    return refusal.value.cause


async def _revisions(engine: Engine, run_id: str) -> list[dict[str, Any]]:
    async with transaction(engine.db, TENANT) as conn:
        rows = await conn.execute(
            text("select * from run_revisions where run_id = :r order by revision"), {"r": run_id}
        )
        return [dict(row) for row in rows.mappings()]


async def test_a_running_run_gets_another_plan(shared_engine: Engine, tmp_path: Path) -> None:
    """A node added to a run that goes on reads what nobody kept any more, and the read model goes by the new plan."""
    gate = tmp_path / "open"
    started = await shared_engine.start(_gated(gate))
    await started.until("NODE_STARTED", "gate")
    before = (await started.stored())["run"]
    answer = await started.handle.execute_update("replan", {"patch": PATCH, "operator": "ann", "reason": "more"})
    assert (answer["revision"], answer["status"]) == (2, "RUNNING")
    assert answer["changes"] == {"nodesAdded": 1, "edgesAdded": 2}
    now = (await started.stored())["run"]
    assert (now["plan_digest"], now["total_nodes"]) == (answer["plan"], 4)
    assert (await started.handle.query("plan"))["revision"] == 2
    gate.touch()
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert body_of(end, "NODE_STARTED", "n")["inputs"] == {"seen": 1, "x": 1}
    assert body_of(end, "PLAN_REVISED")["diff"]["nodes"] == {"added": ["n"]}
    assert body_of(end, "NODE_STARTED", "z")["inputs"]["seen"] == 1
    revisions = await _revisions(shared_engine, started.run_id)
    assert [(one["revision"], one["plan_digest"], one["operator"], one["reason"]) for one in revisions] == [
        (1, before["plan_digest"], "tester", None),
        (2, answer["plan"], "ann", "more"),
    ]
    assert await shared_engine.chain_problem(started.run_id) is None


async def test_while_it_is_paused(shared_engine: Engine, tmp_path: Path) -> None:
    """A paused run stays paused, with its reason, and goes on with the new plan at resume."""
    gate = tmp_path / "open"
    started = await shared_engine.start(_gated(gate))
    await started.until("NODE_STARTED", "gate")
    await started.handle.execute_update("pause", {"reason": "look"})
    await started.handle.execute_update("replan", {"patch": PATCH, "reason": "more"})
    run = (await started.stored())["run"]
    assert (run["status"], run["reason"]) == ("PAUSED", "look")
    gate.touch()
    await started.until("NODE_COMPLETED", "gate")
    await started.handle.execute_update("resume")
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert node_events(end, "n") == ["NODE_STARTED", "NODE_COMPLETED"]


async def test_a_failed_node_that_waits_is_replaced(shared_engine: Engine) -> None:
    """It runs again as what it is now, with another key, and the run that was held for it goes on."""
    started = await shared_engine.start(
        {"failurePolicy": "pause", "nodes": [{"nodeId": "a", "type": "t-needs", "inputs": {"x": 1}}]}
    )
    await started.until("PLAN_PAUSED")
    patch = {"replaceNodes": [{"nodeId": "a", "type": "t-needs", "inputs": {"x": 5}}]}
    await started.handle.execute_update("replan", {"patch": patch})
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    outputs = next(row["body"] for row in end["events"] if row["type"] == "NODE_COMPLETED")["outputs"]
    assert outputs == {"x": 5, "key": f"{started.run_id}:a:0:1"}


async def test_across_continue_as_new(shared_engine: Engine, tmp_path: Path) -> None:
    """The next execution goes on with the new program, and a later revision is made of the newest plan."""
    gate, chain = tmp_path / "open", noop_chain(20)
    started = await shared_engine.start(
        {"nodes": chain["nodes"], "edges": chain["edges"], "timeout": "1h"}, historyLimit=60
    )
    first = {
        "addNodes": [
            {"nodeId": "x", "type": "t-wait-file", "inputs": {"path": str(gate)}},
            {"nodeId": "y", "type": "noop"},
        ],
        "addEdges": [_edge("n19", "x"), _edge("x", "y")],
        "set": {"timeout": "2h"},
    }
    await started.handle.execute_update("replan", {"patch": first})
    await started.until("NODE_STARTED", "x")
    second = {"addNodes": [{"nodeId": "w", "type": "noop"}], "addEdges": [_edge("x", "w")]}
    answer = await started.handle.execute_update("replan", {"patch": second, "expectedRevision": 2})
    assert answer["revision"] == 3
    gate.touch()
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert {"x", "y", "w"} <= end["nodes"].keys()
    info = await shared_engine.client.get_workflow_handle(started.handle.id).describe()
    assert info.run_id != started.handle.first_execution_run_id, "it did continue as new"


async def test_a_revision_in_the_making_outlasts_the_history(shared_engine: Engine, tmp_path: Path) -> None:
    """A run whose history is full waits for the answer of an update before it continues as new, and does nothing else.

    It once asked itself over and over whether it may go on, and the workflow task never ended.
    """
    gate, chain = tmp_path / "open", noop_chain(30)
    chain["nodes"].append({"nodeId": "gate", "type": "t-wait-file", "inputs": {"path": str(gate)}})
    chain["edges"].append(_edge("gate", "n0", mapping={}))
    started = await shared_engine.start(chain, historyLimit=60)
    admin = await servers().superuser(str(shared_engine.db.url.database))
    try:
        async with admin.transaction():
            await admin.execute("LOCK TABLE plan_documents IN SHARE MODE")
            update = await started.handle.start_update(
                "replan", {"patch": {"set": {"timeout": "1h"}}}, wait_for_stage=WorkflowUpdateStage.ACCEPTED
            )
            gate.touch()
            async with asyncio.timeout(PATIENCE):
                while (await started.handle.describe()).history_length < 60:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(1)
        assert (await update.result())["revision"] == 2
    finally:
        await admin.close()
    assert (await started.end())["run"]["status"] == "COMPLETED"
    failures = {EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED, EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT}
    first = shared_engine.client.get_workflow_handle(started.handle.id, run_id=started.handle.first_execution_run_id)
    assert failures.isdisjoint([event.event_type async for event in first.fetch_history_events()])


async def test_two_at_once(shared_engine: Engine, tmp_path: Path) -> None:
    """One wins; the other was made for a plan that is no more."""
    gate = tmp_path / "open"
    started = await shared_engine.start(_gated(gate))
    await started.until("NODE_STARTED", "gate")
    patches = [{"addNodes": [{"nodeId": name, "type": "noop"}]} for name in ("m", "n")]
    handles = [
        await started.handle.start_update(
            "replan", {"patch": patch}, wait_for_stage=WorkflowUpdateStage.ACCEPTED, id=f"{number}"
        )
        for number, patch in enumerate(patches)
    ]
    results = await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
    refused = [one for one in results if isinstance(one, WorkflowUpdateFailedError)]
    if len(refused) == 1:  # else the second one came after the first was done, which is well, too
        assert "not at 1" in str(refused[0].cause)
    revision = (await started.handle.query("status"))["revision"]
    assert revision == 3 - len(refused)
    gate.touch()
    assert (await started.end())["run"]["status"] == "COMPLETED"


BAD: dict[str, tuple[Any, str, str]] = {
    "nothing": (None, "INVALID_REQUEST", "JSON object"),
    "neither": ({}, "INVALID_REQUEST", "either a patch or a plan"),
    "both": ({"patch": {}, "plan": {}}, "INVALID_REQUEST", "either a patch or a plan"),
    "no object": ({"patch": 7}, "INVALID_REQUEST", "patch is an object"),
    "a typo": ({"patch": {}, "reasn": "x"}, "INVALID_REQUEST", "unknown field 'reasn'"),
    "a revision that is no number": ({"patch": {}, "expectedRevision": "2"}, "INVALID_REQUEST", "is a number"),
    "dry run": ({"patch": {}, "dryRun": 1}, "INVALID_REQUEST", "true or false"),
    "another revision": ({"patch": PATCH, "expectedRevision": 7}, "WRONG_STATE", "at revision 1, not at 7"),
    "an empty patch": ({"patch": {}}, "INVALID_REQUEST", "at least one of"),
    "an unknown type": (
        {"patch": {"addNodes": [{"nodeId": "n", "type": "nonsense"}]}},
        "INVALID_REQUEST",
        "nonsense",
    ),
    "a cycle": ({"patch": {"addEdges": [_edge("z", "gate")]}}, "INVALID_REQUEST", "wait for each other"),
    "an orphan": ({"patch": {"removeNodes": ["z"]}}, "INVALID_REQUEST", "left without its node"),
    "what has finished": ({"patch": {"changeInputs": {"a": {"x": 2}}}}, "WRONG_STATE", "node a is SUCCESS"),
    "what has started": (
        {"patch": {"removeEdges": ["a->gate", "gate->z"], "removeNodes": ["gate"]}},
        "WRONG_STATE",
        "RUNNING",
    ),
    "an edge into what has started": (
        {"patch": {"addNodes": [{"nodeId": "n", "type": "noop"}], "addEdges": [_edge("n", "gate")]}},
        "WRONG_STATE",
        "too late",
    ),
}


async def test_what_is_refused(shared_engine: Engine, tmp_path: Path) -> None:
    """Each bad request is told what is wrong and where, as update and as signal, and changes nothing."""
    gate = tmp_path / "open"
    started = await shared_engine.start(_gated(gate))
    await started.until("NODE_STARTED", "gate")
    for name, (payload, kind, words) in BAD.items():
        refusal = await _refused(started, payload)
        assert (name, refusal.type) == (name, kind)
        assert words in f"{refusal.message} {refusal.details}", (name, refusal.message, refusal.details)
    clash = (await _refused(started, BAD["what has finished"][0])).details[0]["problems"][0]
    assert (clash["pointer"], clash["nodeId"], clash["code"]) == ("/patch/changeInputs/a", "a", "IMMUTABLE")
    for payload in (None, 5, {"patch": []}, {"patch": {"removeNodes": ["nix"]}}):
        await started.handle.signal("replan", payload)
    await started.handle.signal("replan", args=[1, 2, 3])
    while (await started.handle.query("status"))["rejectedRequests"] < 5:
        await asyncio.sleep(0.05)
    dry = await started.handle.execute_update("replan", {"patch": PATCH, "dryRun": True})
    assert (dry["revision"], (await started.handle.query("status"))["revision"]) == (2, 1)
    await started.handle.signal("replan", {"patch": PATCH})
    await started.until("PLAN_REVISED")
    gate.touch()
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert node_events(end, "n") == ["NODE_STARTED", "NODE_COMPLETED"]
    with pytest.raises(Exception, match="already completed"):
        await started.handle.execute_update("replan", {"patch": PATCH})


async def test_another_timeout_counts_from_the_beginning(shared_engine: Engine, tmp_path: Path) -> None:
    """A shorter timeout that has passed already ends the run like any timeout."""
    started = await shared_engine.start(_gated(tmp_path / "never"))
    await started.until("NODE_STARTED", "gate")
    await started.handle.execute_update("replan", {"patch": {"set": {"timeout": "1ms"}}})
    end = await started.end()
    assert (end["run"]["status"], end["run"]["reason"]) == ("CANCELLED", "TIMEOUT")
