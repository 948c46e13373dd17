"""An evaluator and a planner without a model: an article is written on until it is long enough."""

from __future__ import annotations

from typing import Any

from dalang.nodes import InvalidInput, NodeContext, agent, node

ENOUGH_WORDS = 200


@node("demo-judge")
def demo_judge(ctx: NodeContext, words: int, title: str = "") -> dict[str, Any]:
    """Judge an article by its length."""
    if words >= ENOUGH_WORDS:
        return {"verdict": "pass", "reason": "long enough", "words": words}
    return {"verdict": "replan", "reason": f"{words} of {ENOUGH_WORDS} words", "words": words}


@agent("demo-planner", capabilities=["replanning"])
def demo_planner(ctx: NodeContext, plan: dict[str, Any], revision: int, causes: list[dict[str, Any]], **_: Any) -> Any:
    """Put another round of writing and judging between the evaluator and what follows it."""
    judged = next((cause for cause in causes if cause["kind"] == "verdict"), None)
    if judged is None:
        raise InvalidInput("only verdicts are answered here")
    last, write, judge = judged["nodeId"], f"write-{revision}", f"judge-{revision}"
    following = [edge for edge in plan["edges"] if edge["sourceNodeId"] == last]
    patch = {
        "removeEdges": [edge["edgeId"] for edge in following],
        "addNodes": [
            {"nodeId": write, "type": "noop", "inputs": {"words": judged["outputs"]["words"] + 60}},
            {"nodeId": judge, "type": "python", "handler": "demo-judge", "evaluator": True},
        ],
        "addEdges": [
            {"sourceNodeId": last, "targetNodeId": write, "mapping": {"reason": "because"}},
            {"sourceNodeId": write, "targetNodeId": judge, "mapping": {"words": "words"}},
            *({"sourceNodeId": judge, "targetNodeId": edge["targetNodeId"]} for edge in following),
        ],
    }
    return {"patch": patch, "reason": f"another round: {judged['outputs']['reason']}"}
