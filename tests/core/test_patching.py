"""Patches: what they make of a plan, and the table of what is wrong with bad ones, each with its place."""

from __future__ import annotations

from typing import Any

import pytest

from dalang.loading import load_plan
from dalang.plan_diff import counts, summary
from dalang.revision import revise

PLAN = (
    load_plan(
        {
            "name": "article",
            "nodes": [
                {"nodeId": "draft", "type": "noop", "inputs": {"topic": "tea"}},
                {"nodeId": "review", "type": "noop"},
                {"nodeId": "publish", "type": "noop", "inputs": {"channel": "web"}},
            ],
            "edges": [
                {"sourceNodeId": "draft", "targetNodeId": "review"},
                {"sourceNodeId": "review", "targetNodeId": "publish"},
            ],
            "finally": [{"nodeId": "tell", "type": "noop"}],
            "outputs": {"x": "${nodes.publish.outputs}"},
        }
    )
    .require()
    .wire()
)


def test_every_operation() -> None:
    """A patch sets, removes, replaces, adds and changes, and the diff says what."""
    patch = {
        "set": {"timeout": "3h", "outputs": None},
        "removeEdges": ["review->publish"],
        "removeNodes": ["publish"],
        "replaceNodes": [{"nodeId": "review", "type": "noop", "name": "Look"}],
        "addNodes": [{"nodeId": "post", "type": "noop"}],
        "addFinally": [{"nodeId": "bye", "type": "noop"}],
        "replaceEdges": [
            {"edgeId": "draft->review", "sourceNodeId": "draft", "targetNodeId": "review", "condition": "true"}
        ],
        "addEdges": [{"sourceNodeId": "review", "targetNodeId": "post"}],
        "changeInputs": {"draft": {"words": 7}},
    }
    revision, problems = revise(PLAN, {"patch": patch})
    assert problems == ()
    assert revision is not None
    new = revision.plan.wire()
    assert [node["nodeId"] for node in new["nodes"]] == ["draft", "review", "post"]
    assert new["nodes"][0]["inputs"] == {"topic": "tea", "words": 7}
    assert [edge["edgeId"] for edge in new["edges"]] == ["draft->review", "review->post"]
    assert (new["timeout"], new["planId"], "outputs" in new) == ("3h", PLAN["planId"], False)
    assert counts(revision.diff) == {
        "nodesAdded": 2,
        "nodesRemoved": 1,
        "nodesChanged": 2,
        "edgesAdded": 1,
        "edgesRemoved": 1,
        "edgesChanged": 1,
        "fieldsChanged": 2,
    }
    assert summary(revision.diff)["nodes"] == {
        "added": ["post", "bye"],
        "removed": ["publish"],
        "changed": ["draft", "review"],
    }
    assert revision.diff["plan"]["timeout"] == {"before": None, "after": "3h"}
    assert revision.places["nodes/post"] == "/patch/addNodes/0"
    assert revision.places["edges/review->post"] == "/patch/addEdges/0"
    assert revision.places["nodes/draft"] == "/patch/changeInputs/draft"


def test_a_whole_plan() -> None:
    """A whole plan is a revision of the same plan; edges without ids keep those that their ends give them."""
    new = {key: value for key, value in PLAN.items() if key not in ("planId", "edges")}
    new["edges"] = [
        {"sourceNodeId": "draft", "targetNodeId": "review"},
        {"sourceNodeId": "review", "targetNodeId": "publish"},
    ]
    revision, problems = revise(PLAN, {"plan": new})
    assert problems == ()
    assert revision is not None
    assert revision.diff == {
        "plan": {},
        "nodes": {"added": {}, "removed": {}, "changed": {}},
        "edges": {"added": {}, "removed": {}, "changed": {}},
    }


BAD: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "no object": ([], [("/patch", "NOT_AN_OBJECT")]),
    "empty": ({}, [("/patch", "NOT_AN_OBJECT")]),
    "unknown operation": ({"add": []}, [("/patch/add", "UNKNOWN_FIELD")]),
    "no list": ({"addNodes": {}}, [("/patch/addNodes", "WRONG_TYPE")]),
    "no text": ({"removeNodes": [1]}, [("/patch/removeNodes/0", "WRONG_TYPE")]),
    "no node": ({"addNodes": ["x"]}, [("/patch/addNodes/0", "WRONG_TYPE")]),
    "an id that is no text": ({"addNodes": [{"nodeId": {}}]}, [("/patch/addNodes/0/nodeId", "WRONG_TYPE")]),
    "NaN": ({"changeInputs": {"draft": {"x": float("nan")}}}, [("/patch/changeInputs/draft/x", "NOT_JSON")]),
    "the name": (
        {"set": {"name": "b", "inputs": {}}},
        [("/patch/set/name", "BAD_VALUE"), ("/patch/set/inputs", "BAD_VALUE")],
    ),
    "unknown ids, all at once": (
        {
            "removeNodes": ["nix"],
            "removeEdges": ["nix"],
            "replaceNodes": [{"nodeId": "nix", "type": "noop"}],
            "replaceEdges": [{"edgeId": "nix"}],
            "changeInputs": {"nix": {}},
        },
        [
            ("/patch/removeEdges/0", "UNKNOWN_EDGE"),
            ("/patch/removeNodes/0", "UNKNOWN_NODE"),
            ("/patch/replaceNodes/0", "UNKNOWN_NODE"),
            ("/patch/changeInputs/nix", "UNKNOWN_NODE"),
            ("/patch/replaceEdges/0", "UNKNOWN_EDGE"),
        ],
    ),
    "taken ids": (
        {
            "addNodes": [{"nodeId": "draft", "type": "noop"}],
            "addEdges": [{"edgeId": "draft->review", "sourceNodeId": "draft", "targetNodeId": "review"}],
        },
        [("/patch/addNodes/0/nodeId", "DUPLICATE_NODE_ID"), ("/patch/addEdges/0/edgeId", "DUPLICATE_EDGE_ID")],
    ),
    "no id": ({"addNodes": [{"type": "noop"}]}, [("/patch/addNodes/0/nodeId", "MISSING_FIELD")]),
    "orphaned edges": (
        {"removeNodes": ["review"]},
        [("/patch/removeNodes/0", "ORPHANED_EDGE"), ("/patch/removeNodes/0", "ORPHANED_EDGE")],
    ),
    "a cycle": ({"addEdges": [{"sourceNodeId": "publish", "targetNodeId": "review"}]}, [("/patch", "CYCLE")]),
    "an edge to nowhere": (
        {"addEdges": [{"sourceNodeId": "publish", "targetNodeId": "nix"}]},
        [("/patch/addEdges/0/targetNodeId", "UNKNOWN_NODE")],
    ),
    "an edge into finally": (
        {"addEdges": [{"sourceNodeId": "publish", "targetNodeId": "tell"}]},
        [("/patch/addEdges/0", "FINALLY_EDGE")],
    ),
    "an expression left without its node": (
        {"removeEdges": ["review->publish"], "removeNodes": ["publish"]},
        [("/patch", "UNKNOWN_NODE")],
    ),
    "a node that is no node": (
        {"replaceNodes": [{"nodeId": "review", "type": "noop", "typ": 1}]},
        [("/patch/replaceNodes/0/typ", "UNKNOWN_FIELD")],
    ),
    "a bad expression": (
        {"changeInputs": {"publish": {"x": "${nodes.nix.outputs}"}}},
        [("/patch/changeInputs/publish/x", "UNKNOWN_NODE")],
    ),
    "a bad timeout": ({"set": {"timeout": "soon"}}, [("/patch/set/timeout", "BAD_DURATION")]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_patch(name: str) -> None:
    """Every problem is told at once, each with its place in the patch and its code."""
    patch, expected = BAD[name]
    revision, problems = revise(PLAN, {"patch": patch})
    assert revision is None
    assert [(one.pointer, one.code) for one in problems] == expected
    assert all(one.message for one in problems)


BAD_PLANS: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "no object": (5, [("/plan", "NOT_AN_OBJECT")]),
    "another plan": ({**PLAN, "name": "other"}, [("/plan/name", "BAD_VALUE")]),
    "other inputs": ({**PLAN, "inputs": {"type": "object"}}, [("/plan/inputs", "BAD_VALUE")]),
    "no nodes": ({**PLAN, "nodes": [], "edges": [], "outputs": {}}, [("/plan/nodes", "NO_NODES")]),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_a_bad_plan(name: str) -> None:
    """A whole plan is held against the same validation, and has to be of the same plan."""
    plan, expected = BAD_PLANS[name]
    revision, problems = revise(PLAN, {"plan": plan})
    assert revision is None
    assert [(one.pointer, one.code) for one in problems] == expected
