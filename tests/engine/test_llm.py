"""Language models on the real engine: attempts, delays, budgets, cancels, evaluators and planners."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.engine.kit import Engine, body_of, node_events
from tests.model_peer import Peer

MODEL = "openai-compatible:"


def _ask(model: str, **inputs: Any) -> dict[str, Any]:
    return {"nodeId": "ask", "type": "llm", "inputs": {"model": MODEL + model, "prompt": "hello", **inputs}}


async def test_an_answer_is_the_nodes_outputs(shared_engine: Engine) -> None:
    """What it used is told to the budget, and the prompt is a template like every input."""
    node = _ask("echo", prompt="${inputs.name} says: ${inputs.what}")
    end = await (await shared_engine.start({"nodes": [node]}, {"name": "Kim", "what": {"a": 1}})).end()
    completed = next(row for row in end["events"] if row["type"] == "NODE_COMPLETED")
    outputs = body_of(end, "NODE_COMPLETED", "ask")["outputs"]
    assert outputs["text"] == 'You said: Kim says: {"a":1}'
    assert completed["data"]["usage"] == {"tokens": outputs["llm"]["usage"]["totalTokens"]}


async def test_who_asks_to_be_left_alone_is(shared_engine: Engine, model_peer: Peer) -> None:
    """After 429 the next attempt waits as long as the provider says, though the policy would be quicker."""
    node = {**_ask("rate-limit-briefly-once"), "retryPolicy": {"initialDelayMs": 10}}
    end = await (await shared_engine.start({"nodes": [node]})).end()
    assert end["nodes"]["ask"]["attempt"] == 2
    (failed,) = end["attempts"]
    assert (failed["error"]["type"], failed["error"]["retryAfterMs"]) == ("LLM_ERROR", 300)
    completed = next(row for row in end["events"] if row["type"] == "NODE_COMPLETED")
    assert (completed["at"] - failed["ended_at"]).total_seconds() >= 0.25


async def test_refusals_ask_a_person(shared_engine: Engine) -> None:
    """The reason is a code that an edge can go by; without such an edge there is a task."""
    nodes = [_ask("refusal"), {"nodeId": "other", "type": "noop"}]
    taken = {"sourceNodeId": "ask", "sourcePort": "error", "targetNodeId": "other"}
    edge = {**taken, "condition": "error.type == 'LLM_ERROR' && error.details.reason == 'REFUSAL'"}
    end = await (await shared_engine.start({"nodes": nodes, "edges": [edge]})).end()
    assert (end["run"]["status"], end["nodes"]["ask"]["status"]) == ("COMPLETED", "ERROR")
    started = await shared_engine.start({"nodes": [_ask("refusal")]})
    await started.until("HITL_TASK_CREATED", "ask")
    await started.handle.execute_update("cancel", {"reason": "enough"})
    assert node_events(await started.end(), "ask").count("NODE_STARTED") == 1


async def test_a_budget_of_tokens(shared_engine: Engine) -> None:
    """What a model used pauses the run before the next node."""
    plan = {
        "budget": {"tokens": 5},
        "nodes": [_ask("echo"), {"nodeId": "next", "type": "noop"}],
        "edges": [{"sourceNodeId": "ask", "targetNodeId": "next"}],
    }
    started = await shared_engine.start(plan)
    await started.until("PLAN_PAUSED")
    await started.handle.execute_update("raise_budget", {"tokens": 1000, "operator": "kim"})
    assert (await started.end())["run"]["status"] == "COMPLETED"


async def test_a_cancel_breaks_the_request_off(shared_engine: Engine, model_peer: Peer) -> None:
    """The provider sees that nobody waits any more; meanwhile heartbeats went on."""
    model_peer.waiting.clear()
    model_peer.gone.clear()
    started = await shared_engine.start({"nodes": [_ask("hanging")]})
    assert await asyncio.to_thread(model_peer.waiting.wait, 20)
    await started.handle.execute_update("cancel", {"reason": "enough"})
    assert (await started.end())["run"]["status"] == "CANCELLED"
    assert await asyncio.to_thread(model_peer.gone.wait, 10)


async def test_a_second_attempt_goes_on_where_the_first_one_ended(shared_engine: Engine, model_peer: Peer) -> None:
    """A tool fails the attempt; the next one calls it again, under the same key, and asks only for what is left."""
    calls = json.dumps([["t-key", {"x": 7}], ["t-flaky", {"failures": 1}]])
    node = {
        **_ask("calling@engine", prompt=calls, tools=["t-key", "t-flaky"], toolErrors="fail"),
        "retryPolicy": {"initialDelayMs": 10},
    }
    end = await (await shared_engine.start({"nodes": [node]})).end()
    assert end["nodes"]["ask"]["attempt"] == 2
    outputs = body_of(end, "NODE_COMPLETED", "ask")["outputs"]
    key, flaky = outputs["text"].split(" | ")
    assert key.startswith(f"{end['run']['run_id']}:ask:0:0:tool:")
    assert key.endswith(":0")
    assert json.loads(flaky)["attempt"] == 2
    assert model_peer.count("calling@engine") == 3
    assert [one["failed"] for one in outputs["llm"]["toolCalls"]] == [False, False]
    completed = next(row for row in end["events"] if row["type"] == "NODE_COMPLETED")
    assert completed["data"]["usage"]["tokens"] == outputs["llm"]["usage"]["totalTokens"] + 10


async def test_what_was_done_before_is_told_to_the_model(shared_engine: Engine, model_peer: Peer) -> None:
    """Where the node asks for it."""
    first = {**_ask("echo@before"), "name": "Weigh the elephant"}
    await (await shared_engine.start({"nodes": [first]})).end()
    again = {**first, "inputs": {**first["inputs"], "model": MODEL + "echo@again"}, "memory": {"episodes": 2}}
    end = await (await shared_engine.start({"nodes": [again]})).end()
    assert end["run"]["status"] == "COMPLETED"
    system, _ = model_peer.asked["echo@again"][0]["messages"]
    assert system["role"] == "system"
    assert "echo@before" in system["content"]
    assert [one["role"] for one in model_peer.asked["echo@before"][0]["messages"]] == ["user"]


async def test_a_model_judges_and_a_model_plans(shared_engine: Engine, model_peer: Peer) -> None:
    """An evaluator's verdict asks the planner, whose first patch is of no use: it hears why within its attempt."""
    judge = {"type": "llm", "evaluator": True}
    plan = {
        "planner": {"type": "llm", "inputs": {"model": MODEL + "planner", "prompt": "Be thorough."}},
        "nodes": [
            {"nodeId": "write", "type": "llm", "inputs": {"model": MODEL + "good", "prompt": "Write about tea."}},
            {
                **judge,
                "nodeId": "judge",
                "inputs": {"model": MODEL + "good", "prompt": "Is it long? ${nodes.write.outputs.text}"},
            },
            {"nodeId": "publish", "type": "noop"},
        ],
        "edges": [
            {"sourceNodeId": "write", "targetNodeId": "judge"},
            {"sourceNodeId": "judge", "targetNodeId": "publish"},
        ],
        "outputs": {"verdict": "${nodes.publish.outputs.verdict}"},
    }
    end = await (await shared_engine.start(plan)).end()
    assert end["run"]["status"] == "COMPLETED", end["run"]["error_message"]
    assert end["result"]["outputs"] == {"verdict": "pass"}
    assert end["nodes"]["rewrite"]["status"] == "SUCCESS"
    kinds = [row["type"] for row in end["events"]]
    assert kinds.count("PLAN_REVISED") == 1
    assert "PLAN_REPLAN_FAILED" not in kinds
    told = json.dumps(model_peer.asked["planner"][-1]["messages"])
    assert "UNKNOWN_NODE" in told
    assert "Be thorough." in told


async def test_a_planner_may_answer_with_a_whole_plan(shared_engine: Engine) -> None:
    """Parts of its answer that are empty are none."""
    plan = {
        "planner": {"type": "llm", "inputs": {"model": MODEL + "redrawing"}},
        "nodes": [{**_ask("good", prompt="too short"), "evaluator": True}, {"nodeId": "publish", "type": "noop"}],
        "edges": [{"sourceNodeId": "ask", "targetNodeId": "publish"}],
    }
    end = await (await shared_engine.start(plan)).end()
    assert end["run"]["status"] == "COMPLETED", end["run"]["error_message"]
    assert body_of(end, "NODE_COMPLETED", "publish")["outputs"]["note"] == "judged"


async def test_a_planner_that_is_of_no_use(shared_engine: Engine) -> None:
    """It answers with text where a patch is wanted, again and again: the verdict fails the run."""
    plan = {
        "planner": {"type": "llm", "inputs": {"model": MODEL + "echo"}, "retryPolicy": {"maxAttempts": 1}},
        "nodes": [{**_ask("good", prompt="too short"), "evaluator": True}],
    }
    end = await (await shared_engine.start(plan)).end()
    assert end["run"]["status"] == "FAILED"
    failed = body_of(end, "PLAN_REPLAN_FAILED")
    assert (failed["error"]["type"], failed["error"]["details"]["reason"]) == ("LLM_ERROR", "BAD_OUTPUT")
