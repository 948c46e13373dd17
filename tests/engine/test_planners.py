"""Plans that change by themselves, on the real engine: evaluators, AUTO_FIX, planners that answer badly or not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.engine.kit import Engine, Started, body_of, node_events


def _article(**more: Any) -> dict[str, Any]:
    """A draft of four words, an evaluator that wants ten, a publication."""
    return {
        "planner": {
            "handler": "t-planner",
            "inputs": {"way": more.pop("way", "well")},
            "retryPolicy": {"initialDelayMs": 10},
        },
        "nodes": [
            {"nodeId": "draft", "type": "t-value", "inputs": {"words": 4}},
            {"nodeId": "judge", "type": "t-judge", "evaluator": True},
            {"nodeId": "publish", "type": "t-value"},
        ],
        "edges": [
            {"sourceNodeId": "draft", "targetNodeId": "judge"},
            {"sourceNodeId": "judge", "targetNodeId": "publish"},
        ],
        "outputs": {"words": "${nodes.publish.outputs.words}"},
        **more,
    }


def _types(stored: dict[str, Any], *kinds: str) -> list[str]:
    return [row["type"] for row in stored["events"] if row["type"] in kinds]


async def _while_replanning(started: Started) -> None:
    while (await started.handle.query("status"))["status"] != "REPLANNING":
        await asyncio.sleep(0.05)


async def test_an_article_grows_until_it_is_long_enough(shared_engine: Engine) -> None:
    """Each verdict asks the planner for one more round; the run, which publishes then, is at the third revision."""
    end = await (await shared_engine.start(_article())).end()
    assert end["run"]["status"] == "COMPLETED", end["run"]["error_message"]
    assert end["result"]["outputs"] == {"words": 14}
    assert _types(end, "PLAN_REPLANNING", "PLAN_REVISED") == ["PLAN_REPLANNING", "PLAN_REVISED"] * 2
    revised = next(row for row in end["events"] if row["type"] == "PLAN_REVISED")
    assert (revised["data"]["operator"], revised["data"]["reason"]) == ("planner", "SUCCESS with 4 words")
    assert end["run"]["total_nodes"] == 7
    assert await shared_engine.chain_problem(str(end["run"]["run_id"])) is None


async def test_a_planner_gives_nobody_a_secret(shared_engine: Engine) -> None:
    """What it answers may come from whoever wrote an output; it is told, and asked again in vain."""
    end = await (await shared_engine.start(_article(way="steal"))).end()
    assert end["run"]["status"] == "FAILED"
    assert "neither writes nor changes a node that is given a secret" in end["run"]["error_message"]
    assert "thief" not in end["nodes"]


async def test_max_replans(shared_engine: Engine) -> None:
    """Bounded to one round, the second verdict fails its node and the run, and says why."""
    end = await (await shared_engine.start(_article(maxReplans=1))).end()
    assert end["run"]["status"] == "FAILED"
    assert "no planner can be asked any more: 9 words" in end["run"]["error_message"]
    assert end["nodes"]["judge1"]["status"] == "FAILED"


async def test_auto_fix(shared_engine: Engine) -> None:
    """A failure that suggests AUTO_FIX has its node replaced, and it runs again under another key."""
    plan = {
        "planner": {"handler": "t-planner"},
        "nodes": [{"nodeId": "a", "type": "t-fixable", "inputs": {"x": 1}}],
    }
    end = await (await shared_engine.start(plan)).end()
    assert end["run"]["status"] == "COMPLETED", end["run"]["error_message"]
    assert node_events(end, "a") == [
        "NODE_STARTED",
        "NODE_FAILED",
        "NODE_RETRY_REQUESTED",
        "NODE_STARTED",
        "NODE_COMPLETED",
    ]
    assert body_of(end, "NODE_COMPLETED", "a")["outputs"]["key"].endswith(":a:0:1")


@pytest.mark.parametrize(
    ("way", "status", "failed", "words"),
    [
        ("badly-first", "COMPLETED", 2, ""),
        ("fail-once", "COMPLETED", 0, ""),
        ("nonsense", "FAILED", 3, "either a patch or a plan"),
        ("fail", "FAILED", 1, "no idea"),
    ],
)
async def test_planners_that_answer_badly(
    shared_engine: Engine, way: str, status: str, failed: int, words: str
) -> None:
    """What is wrong with an answer goes into the next attempt, of three; a planner is retried as nodes are."""
    end = await (await shared_engine.start(_article(way=way))).end()
    assert end["run"]["status"] == status, end["run"]
    assert _types(end, "PLAN_REPLAN_FAILED") == ["PLAN_REPLAN_FAILED"] * failed
    assert words in (end["run"]["error_message"] or "")
    if way == "badly-first":
        problem = body_of(end, "PLAN_REPLAN_FAILED")["problems"][0]
        assert (problem["pointer"], problem["code"]) == ("/patch/removeNodes/0", "UNKNOWN_NODE")


async def test_cancel_while_a_planner_thinks(shared_engine: Engine) -> None:
    """The run is REPLANNING, can be paused, resumed and cancelled, and ends without the planner."""
    started = await shared_engine.start(_article(way="hang"))
    await _while_replanning(started)
    assert (await started.handle.execute_update("pause"))["status"] == "PAUSED"
    assert (await started.handle.execute_update("resume"))["status"] == "REPLANNING"
    await started.handle.execute_update("cancel", {"reason": "enough"})
    end = await started.end()
    assert (end["run"]["status"], end["run"]["reason"]) == ("CANCELLED", "enough")


async def test_across_continue_as_new(shared_engine: Engine) -> None:
    """A request to a planner is a part of the run's state."""
    end = await (await shared_engine.start(_article(), historyLimit=25)).end()
    assert end["run"]["status"] == "COMPLETED", end["run"]["error_message"]
    assert end["result"]["outputs"] == {"words": 14}
