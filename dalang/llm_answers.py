"""What models are asked to answer where Dalang itself reads it: the verdict of an evaluator, the patch of a planner."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dalang.errors import Problem
from dalang.llm_inputs import RESERVED
from dalang.patching import OPERATIONS, SETTABLE

VERDICTS = ("pass", "replan", "fail")
VERDICT_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {
            "type": "string",
            "enum": list(VERDICTS),
            "description": "pass: go on; replan: the plan has to be changed first; fail: it is of no use.",
        },
        "reason": {"type": "string", "description": "Why, in a sentence or two; a planner reads it."},
    },
    "required": ["verdict", "reason"],
    "additionalProperties": False,
}
_OPEN = frozenset(
    {"additionalProperties", "unevaluatedProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"}
)
MAX_SECTION = 200_000
"""Characters of one part of what a planner is told; no model reads more with profit."""

_NODE = {
    "type": "object",
    "description": "A node: nodeId, type, inputs, and other fields as nodes of the plan have them.",
    "properties": {
        "nodeId": {"type": "string"},
        "type": {"type": "string"},
        "inputs": {"type": "object"},
    },
    "required": ["nodeId", "type"],
}
_EDGE = {
    "type": "object",
    "description": "An edge; `mapping` names which outputs become which inputs, without it all do.",
    "properties": {
        "edgeId": {"type": "string"},
        "sourceNodeId": {"type": "string"},
        "sourcePort": {"type": "string"},
        "targetNodeId": {"type": "string"},
        "mapping": {"type": "object"},
        "condition": {"type": "string"},
    },
    "required": ["sourceNodeId", "targetNodeId"],
}
_IDS = {"type": "array", "items": {"type": "string"}}
_PARTS: Mapping[str, Any] = {
    "set": {"type": "object", "description": f"Fields of the plan; null takes one away. Only {', '.join(SETTABLE)}."},
    "removeEdges": {**_IDS, "description": "edgeIds; an edge without an own id is called source->target."},
    "removeNodes": {**_IDS, "description": "nodeIds; edges that would be left behind have to be removed, too."},
    "replaceNodes": {"type": "array", "items": _NODE},
    "addNodes": {"type": "array", "items": _NODE},
    "addFinally": {"type": "array", "items": _NODE},
    "replaceEdges": {"type": "array", "items": _EDGE},
    "addEdges": {"type": "array", "items": _EDGE},
    "changeInputs": {"type": "object", "description": "By nodeId: an object of inputs, which are changed key by key."},
}
PATCH_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "What changes in the plan, by id. The parts apply in the order in which they stand here.",
    "properties": {name: _PARTS[name] for name in OPERATIONS},
    "additionalProperties": False,
}
REVISION_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string", "description": "What you change, and why, in a sentence."},
        "patch": PATCH_SCHEMA,
        "plan": {"type": "object", "description": "Instead of a patch: the whole plan as it shall be."},
    },
    "required": ["reason"],
    "additionalProperties": False,
}

PLANNER_SYSTEM = """\
You change the plan of a run that is under way. A plan is a graph: nodes do work, edges say what follows what and pass
outputs on as inputs. You are told the plan, what asks for a change (the verdict of a node that evaluates, or a
failure), and how far the run is. Answer with a patch that deals with the causes and changes nothing else.

Rules:
- What has started or finished cannot change: neither its node nor the edges into it. Nodes that wait (those without a
  status) may be added, replaced and removed. Edges from nodes that have ended to nodes that wait may come and go.
- A node that failed is a cause: replace it (replaceNodes, the same nodeId) and it runs again, or give it an edge with
  the sourcePort "error" that leads to a node which deals with the error.
- After a verdict "replan" the work has to be done again: add new nodes with new nodeIds between the node that judged
  and what follows it - remove its edges to what follows, add the new nodes, and edges through them. Let the last of the
  new nodes be an evaluator as well ("evaluator": true, the same type and inputs as the one that judged) if it shall be
  judged again.
- Every nodeId in an edge exists after the patch. No edge leads back: the graph has no cycle.
- Use only node types, handlers and models that the plan uses already, unless you are told of others. In inputs,
  ${inputs.x} is an input of the run and ${nodes.<nodeId>.outputs.x} an output of a node further up.
- Never answer with the same patch again if you are told what was wrong with it.
"""
VERDICT_SYSTEM = """\
You judge what was done, strictly by what you are told to look at. Answer with a verdict: "pass" when it is good enough
to go on, "replan" when the work has to be done again or in another way, "fail" when it is of no use; and with a reason.
"""


def with_verdict(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return an evaluator's schema: the node's own, in which the verdict and its reason are required."""
    if schema is None:
        return dict(VERDICT_SCHEMA)
    own = schema.get("properties")
    properties = {**VERDICT_SCHEMA["properties"], **(own if isinstance(own, Mapping) else {})}
    required = list(dict.fromkeys([*VERDICT_SCHEMA["required"], *schema.get("required", ())]))
    return {**schema, "type": "object", "properties": properties, "required": required}


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema that takes no properties but its own, unless it says something about others.

    Outputs become inputs of the next node: what a model puts in beside what it was asked for must not.
    """
    if not isinstance(schema.get("properties"), Mapping) or not _OPEN.isdisjoint(schema):
        return dict(schema)
    return {**schema, "additionalProperties": False}


def uses_reserved(schema: Mapping[str, Any]) -> bool:
    """Tell whether answers by this schema have the key that the outputs need for themselves."""
    properties = schema.get("properties")
    return isinstance(properties, Mapping) and RESERVED in properties


def planner_prompt(inputs: Mapping[str, Any], own: str | None, node_types: Iterable[str]) -> str:
    """Return what a planner is told: its own prompt, the plan, the causes, and how far the run is."""
    parts = [own] if own else []
    told = (
        ("The plan", inputs.get("plan")),
        ("What asks for a change", inputs.get("causes")),
        ("Statuses of the nodes that something has happened to", inputs.get("statuses")),
        ("The inputs of the run", inputs.get("runInputs")),
    )
    parts += [f"## {title}\n{_json(value)}" for title, value in told if value]
    parts.append(f"## Node types of this installation\n{', '.join(node_types)}")
    problems = inputs.get("problems")
    if problems:
        parts.append(f"## Your last answer could not be taken\n{_json(problems)}")
    return "\n\n".join(parts)


def episodes_text(episodes: Sequence[Mapping[str, Any]]) -> str:
    """Return what a model is told of what was done before, where its node asks for it."""
    if not episodes:
        return ""
    head = "## What was done before, the most fitting first\nIt may help, and asks nothing of you."
    return "\n".join([head, *(_json(dict(one)) for one in episodes)])


def problem_text(problems: Iterable[Problem]) -> str:
    """Return what is wrong with a patch, for the model that made it."""
    return "\n".join(f"- at {one.pointer or '/'} ({one.code}): {one.message}" for one in problems)


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= MAX_SECTION else f"{text[:MAX_SECTION]} ... (cut off)"
