"""Sub-plans, maps and loops on the real engine: each is a run of its own below a node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowExecutionStatus

from dalang import temporal
from dalang.nesting import child_run_id
from tests.engine.kit import TENANT, Engine, Started, body_of, node_events
from tests.harness import PATIENCE

HANG = {"nodes": [{"nodeId": "wait", "type": "t-hang"}]}


def child_of(started: Started, node: str, iteration: int = 0, generation: int = 0) -> Started:
    """Return the run below a node as one that was started."""
    run_id = child_run_id(started.run_id, node, iteration, generation)
    handle = started.engine.client.get_workflow_handle(f"run-{run_id}")
    return Started(started.engine, run_id, handle)


async def is_there(child: Started, event: str = "NODE_STARTED") -> None:
    """Wait until a child has stored an event."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await child.until(event)
            except Exception as error:
                if "No row" not in str(error):
                    raise
                await asyncio.sleep(0.05)
            else:
                return


def sub_plan(body: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"nodes": [{"nodeId": "sub", "type": "plan", "plan": body, **more}]}


async def test_a_sub_plan_gets_its_inputs_and_gives_its_outputs(shared_engine: Engine) -> None:
    """The node's inputs are the sub-plan's, with the defaults of its schema; its outputs are the node's."""
    sub = {
        "name": "inner",
        "inputs": {"properties": {"n": {"type": "integer"}, "more": {"type": "integer", "default": 10}}},
        "nodes": [{"nodeId": "add", "type": "t-value", "inputs": {"sum": "${inputs.n + inputs.more}"}}],
        "outputs": {"sum": "${nodes.add.outputs.sum}"},
    }
    plan = {**sub_plan(sub, inputs={"n": "${inputs.n}"}), "outputs": {"sum": "${nodes.sub.outputs.sum}"}}
    started = await shared_engine.start(plan, {"n": 32})
    end = await started.end()
    assert end["result"]["outputs"] == {"sum": 42}
    child = child_of(started, "sub")
    stored = await child.stored()
    run = stored["run"]
    assert (run["status"], run["plan_name"], run["total_nodes"]) == ("COMPLETED", "inner", 1)
    assert run["inputs"] == {"n": 32, "more": 10}
    assert str(run["parent_run_id"]) == str(run["top_run_id"]) == started.run_id
    assert (run["parent_node_id"], run["iteration"], run["elements"]) == ("sub", 0, None)
    assert await shared_engine.chain_problem(child.run_id) is None
    assert await shared_engine.chain_problem(started.run_id) is None


async def test_inputs_that_a_sub_plan_does_not_take_fail_its_node(shared_engine: Engine) -> None:
    """They are checked against the sub-plan's schema before anything is started."""
    sub = {"inputs": {"properties": {"n": {"type": "integer"}}}, "nodes": [{"nodeId": "a", "type": "noop"}]}
    end = await (await shared_engine.start(sub_plan(sub, inputs={"n": "x"}))).end()
    error = end["run"]["error"]
    assert (error["type"], error["details"]["code"]) == ("VALIDATION_ERROR", "INVALID_INPUT")
    assert node_events(end, "sub") == ["NODE_FAILED"]


async def test_a_failure_in_a_sub_plan_is_that_of_its_node(shared_engine: Engine) -> None:
    """The error keeps where it began, two plans down, and each node names the run below it."""
    sub = sub_plan({"nodes": [{"nodeId": "deep", "type": "t-fail"}]})
    plan = {
        "nodes": [{"nodeId": "outer", "type": "plan", "plan": sub}, {"nodeId": "handler", "type": "noop"}],
        "edges": [{"sourceNodeId": "outer", "sourcePort": "error", "targetNodeId": "handler"}],
    }
    started = await shared_engine.start(plan)
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    error = body_of(end, "NODE_ERROR", "outer")["error"]
    middle = child_of(started, "outer")
    below = child_of(middle, "sub")
    assert (error["type"], error["message"], error["originNode"]) == ("TOOL_ERROR", "it failed", "deep")
    assert error["originRunId"] == below.run_id
    assert error["details"]["runId"] == middle.run_id
    stored = await below.stored()
    assert (stored["run"]["status"], str(stored["run"]["top_run_id"])) == ("FAILED", started.run_id)


async def test_a_cancel_reaches_sub_plans_and_waits_for_their_end(shared_engine: Engine) -> None:
    """The child ends CANCELLED, with the reason given to its parent, before the parent does."""
    started = await shared_engine.start(sub_plan(HANG))
    child = child_of(started, "sub")
    await is_there(child)
    await started.handle.execute_update("cancel", {"operator": "ann", "reason": "enough"})
    end = await started.end()
    assert (end["run"]["status"], end["nodes"]["sub"]["status"]) == ("CANCELLED", "CANCELLED")
    stored = await child.stored()
    assert (stored["run"]["status"], stored["run"]["reason"]) == ("CANCELLED", "enough")
    assert stored["run"]["completed_at"] <= end["run"]["completed_at"]


async def test_a_sub_plan_that_somebody_cancels_is_a_failure_of_its_node(shared_engine: Engine) -> None:
    """The parent was not asked to end, so for it the node failed."""
    started = await shared_engine.start(sub_plan(HANG))
    child = child_of(started, "sub")
    await is_there(child)
    await child.handle.signal("cancel", {"reason": "not wanted"})
    end = await started.end()
    assert end["run"]["status"] == "FAILED"
    assert end["run"]["error"]["message"] == "its run was cancelled: not wanted"


async def test_a_terminated_sub_plan_fails_its_node(shared_engine: Engine) -> None:
    """Temporal tells the parent at once."""
    started = await shared_engine.start(sub_plan(HANG))
    child = child_of(started, "sub")
    await is_there(child)
    await child.handle.terminate("by a test")
    end = await started.end()
    assert (end["run"]["status"], end["run"]["error"]["message"]) == ("FAILED", "its workflow was terminated")


async def test_sub_plans_of_a_terminated_run_end_in_order(shared_engine: Engine) -> None:
    """Temporal asks them to end; none goes on unseen."""
    started = await shared_engine.start(sub_plan(HANG))
    child = child_of(started, "sub")
    await is_there(child)
    assert (await child.handle.describe()).typed_search_attributes.get(temporal.TENANT) == TENANT
    await started.handle.terminate("by a test")
    await is_there(child, "PLAN_CANCELLED")
    while (status := (await child.handle.describe()).status) == WorkflowExecutionStatus.RUNNING:
        await asyncio.sleep(0.05)
    assert status == WorkflowExecutionStatus.CANCELED


async def test_pause_and_resume_reach_sub_plans(shared_engine: Engine, tmp_path: Path) -> None:
    """While the parent is paused its child starts nothing; resumed, both end."""
    gate = tmp_path / "gate"
    body = {
        "nodes": [
            {"nodeId": "wait", "type": "t-wait-file", "inputs": {"path": str(gate)}},
            {"nodeId": "after", "type": "noop"},
        ],
        "edges": [{"sourceNodeId": "wait", "targetNodeId": "after"}],
    }
    started = await shared_engine.start(sub_plan(body))
    child = child_of(started, "sub")
    await is_there(child)
    await started.handle.execute_update("pause", {"operator": "ann"})
    await child.until("PLAN_PAUSED")
    gate.touch()
    await child.until("NODE_COMPLETED", "wait")
    assert "after" not in (await child.stored())["nodes"]
    await started.handle.execute_update("resume", {"operator": "ann"})
    assert (await started.end())["run"]["status"] == "COMPLETED"
    assert node_events(await child.stored(), "after") == ["NODE_STARTED", "NODE_COMPLETED"]


async def test_a_retried_sub_plan_is_a_new_run(shared_engine: Engine) -> None:
    """The failed one has ended for good; the next has the node's next generation, in its id and in its keys."""
    body = {"nodes": [{"nodeId": "need", "type": "t-needs", "inputs": {"x": "${inputs.x}"}}], "outputs": {"done": True}}
    started = await shared_engine.start({**sub_plan(body, inputs={"x": 1}), "failurePolicy": "pause"})
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("retry_node", {"nodeId": "sub", "inputs": {"x": 10}})
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert end["nodes"]["sub"]["generation"] == 1
    first, second = child_of(started, "sub"), child_of(started, "sub", generation=1)
    assert (await first.stored())["run"]["status"] == "FAILED"
    assert (await second.stored())["run"]["status"] == "COMPLETED"


async def test_a_map_of_a_node_gives_results_in_order(shared_engine: Engine) -> None:
    """Each element is a node of one run below, with `item`, `index` and the map's own inputs; tolerated failures."""
    plan = {
        "nodes": [
            {
                "nodeId": "each",
                "type": "map",
                "inputs": {"add": 100},
                "map": {
                    "items": "${inputs.numbers}",
                    "toleratedFailures": "10%",
                    "body": {"type": "t-needs", "inputs": {"x": "${inputs.item + inputs.add * 0 + inputs.index * 0}"}},
                },
            }
        ],
        "outputs": {"each": "${nodes.each.outputs}"},
    }
    numbers = [1 if n % 25 == 3 else n + 2 for n in range(200)]
    started = await shared_engine.start(plan, {"numbers": numbers})
    end = await started.end()
    each = end["result"]["outputs"]["each"]
    failed = [n for n in range(200) if n % 25 == 3]
    assert (each["succeeded"], each["failed"]) == (192, 8)
    assert [one["index"] for one in each["failures"]] == failed
    assert each["failures"][0]["error"]["type"] == "TOOL_ERROR"
    assert [one if one is None else one["x"] for one in each["results"]] == [
        None if n in failed else numbers[n] for n in range(200)
    ]
    keys = {one["key"] for one in each["results"] if one is not None}
    assert len(keys) == 192
    assert f"{started.run_id}/each:0:0:7:0:0" in keys
    child = await child_of(started, "each").stored()
    assert (child["run"]["elements"], child["run"]["total_nodes"], child["run"]["status"]) == (200, 200, "COMPLETED")


async def test_one_failure_too_many_ends_a_map(shared_engine: Engine) -> None:
    """The node's error says how many failed and shows the first of them."""
    mapped = {
        "items": [5, 1, 5, 1, 5],
        "maxConcurrency": 1,
        "toleratedFailures": 1,
        "body": {"type": "t-needs", "inputs": {"x": "${inputs.item}"}},
    }
    end = await (await shared_engine.start({"nodes": [{"nodeId": "each", "type": "map", "map": mapped}]})).end()
    error = end["run"]["error"]
    assert (error["type"], error["originNode"]) == ("TOOL_ERROR", "3")
    assert error["message"] == "2 of 5 elements failed, 1 are tolerated; element 3 failed: x is too small"
    assert [one["index"] for one in error["details"]["failures"]] == [1, 3]


async def test_a_map_of_a_plan_runs_it_for_each_element(shared_engine: Engine) -> None:
    """Its outputs are the results; a map over nothing succeeds."""
    body = {
        "inputs": {"properties": {"item": {"type": "string"}, "mark": {"default": "!"}}},
        "nodes": [{"nodeId": "say", "type": "t-value", "inputs": {"text": "${inputs.item}${inputs.mark}"}}],
        "outputs": {"text": "${nodes.say.outputs.text}", "at": "${inputs.index}"},
    }
    nodes = [
        {"nodeId": "each", "type": "map", "map": {"items": ["a", "b", "c"], "body": body, "maxConcurrency": 2}},
        {"nodeId": "none", "type": "map", "map": {"items": [], "body": body}},
    ]
    outputs = {"each": "${nodes.each.outputs.results}", "none": "${nodes.none.outputs}"}
    end = await (await shared_engine.start({"nodes": nodes, "outputs": outputs})).end()
    assert end["result"]["outputs"] == {
        "each": [{"text": "a!", "at": 0}, {"text": "b!", "at": 1}, {"text": "c!", "at": 2}],
        "none": {"results": [], "failures": [], "succeeded": 0, "failed": 0},
    }


async def test_items_that_are_no_list_fail_the_node(shared_engine: Engine) -> None:
    """It is told before anything is started."""
    mapped = {"items": "${inputs.x}", "body": {"type": "noop"}}
    plan = {"nodes": [{"nodeId": "each", "type": "map", "map": mapped}]}
    end = await (await shared_engine.start(plan, {"x": {"a": 1}})).end()
    assert end["run"]["error"]["details"]["code"] == "NO_LIST"


async def test_a_loop_goes_on_from_what_the_last_iteration_gave(shared_engine: Engine) -> None:
    """Each iteration is a run of its own, sees the one before, and the condition decides."""
    loop = {
        "body": {"type": "t-value", "inputs": {"n": "${inputs.iteration == 0 ? inputs.first : inputs.previous.n * 2}"}},
        "until": "outputs.n >= inputs.enough",
        "maxIterations": 10,
    }
    node = {"nodeId": "double", "type": "loop", "inputs": {"first": 3, "enough": 20}, "loop": loop}
    started = await shared_engine.start({"nodes": [node], "outputs": {"all": "${nodes.double.outputs}"}})
    end = await started.end()
    assert end["result"]["outputs"]["all"] == {"n": 24, "iterations": 4}
    assert node_events(end, "double") == ["NODE_STARTED", *["NODE_ITERATED"] * 3, "NODE_COMPLETED"]
    child = await child_of(started, "double", iteration=2).stored()
    assert child["run"]["iteration"] == 2
    assert child["run"]["inputs"]["previous"] == {"n": 6}


async def test_a_loop_that_never_ends_fails(shared_engine: Engine) -> None:
    """After maxIterations; so does one whose condition raises."""
    loop = {"body": {"type": "noop"}, "until": "iteration > 5", "maxIterations": 2}
    end = await (await shared_engine.start({"nodes": [{"nodeId": "a", "type": "loop", "loop": loop}]})).end()
    assert end["run"]["error"]["type"] == "RESOURCE_EXHAUSTED"
    assert end["run"]["error"]["details"] == {"code": "MAX_ITERATIONS", "iterations": 2}
    loop = {**loop, "until": "outputs.missing"}
    end = await (await shared_engine.start({"nodes": [{"nodeId": "a", "type": "loop", "loop": loop}]})).end()
    assert end["run"]["error"]["type"] == "VALIDATION_ERROR"


async def test_a_retried_loop_keeps_its_iteration(shared_engine: Engine, tmp_path: Path) -> None:
    """The iteration that failed is repeated, not those before."""
    loop = {
        "body": {"type": "t-needs", "inputs": {"x": "${inputs.iteration == 1 ? inputs.second : 5}"}},
        "until": "iteration == 2",
        "maxIterations": 3,
    }
    node = {"nodeId": "a", "type": "loop", "inputs": {"second": 0}, "loop": loop}
    started = await shared_engine.start({"failurePolicy": "pause", "nodes": [node]})
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("retry_node", {"nodeId": "a", "inputs": {"second": 7}})
    end = await started.end()
    assert end["run"]["status"] == "COMPLETED"
    assert body_of(end, "NODE_COMPLETED", "a")["outputs"]["iterations"] == 3
    again = await child_of(started, "a", iteration=1, generation=1).stored()
    assert again["run"]["inputs"]["iteration"] == 1


async def test_a_long_loop_outlives_its_history(shared_engine: Engine) -> None:
    """The parent continues as new between iterations and knows where it was."""
    loop = {"body": {"type": "t-value", "inputs": {"n": "${inputs.iteration}"}}, "until": "outputs.n == 14"}
    node = {"nodeId": "a", "type": "loop", "loop": {**loop, "maxIterations": 20}}
    started = await shared_engine.start({"nodes": [node]}, historyLimit=60)
    end = await started.end()
    assert body_of(end, "NODE_COMPLETED", "a")["outputs"] == {"n": 14, "iterations": 15}
    assert (await started.handle.describe()).run_id != started.handle.first_execution_run_id
    assert await shared_engine.chain_problem(started.run_id) is None
