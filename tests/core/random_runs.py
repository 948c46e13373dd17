"""Random plans, and random ways a run of them can go; drawn from a ``random.Random``, which Hypothesis can be too."""

from __future__ import annotations

from random import Random
from typing import Any

from dalang.events import (
    Begin,
    CancelRequested,
    Event,
    NodeFailed,
    NodeStopped,
    NodeSucceeded,
    PauseRequested,
    ResumeRequested,
    SkipRequested,
    TimedOut,
)
from dalang.plan import Plan
from tests.core.naive_model import NaiveRun

CONDITIONS = (
    "outputs.x > 1",  # raises where there is no x, or x is no number
    "has(outputs.y)",
    "inputs.flag",
    "!inputs.flag",
    "1 / inputs.zero == 1",  # raises
    "inputs.zero",  # raises: not boolean
    "nodes.{n}.status == 'SUCCESS'",
    "nodes.{n}.outputs.x == 1",
    "nodes.{n}.status == 'SKIPPED' || has(nodes.{n}.error.type)",
)
ERROR_CONDITIONS = (
    "error.type == 'TIMEOUT'",
    "error.type != 'TIMEOUT'",
    "error.code == 7",
    "inputs.flag",
    *CONDITIONS[-3:],
)
TEXTS = (
    "${{nodes.{n}.outputs.x}}",
    "${{nodes.{n}.status}}",
    "a ${{nodes.{n}.error}} b",
    "${{nodes.{n}.outputs}}",
    "${{run.status}}",
    "${{inputs.flag}}",
)


def chance(rnd: Random, percent: int) -> bool:
    """True in about ``percent`` of 100 cases; the simple case, which Hypothesis shrinks towards, is False."""
    return rnd.randint(0, 99) >= 100 - percent


def random_plan(rnd: Random, most: int = 12) -> Plan:
    """Return a valid plan; nodes and edges stand in any order, so that plan order is not the order of dependencies."""
    main = [f"n{number}" for number in range(rnd.randint(1, most))]
    last = [f"f{number}" for number in range(rnd.randint(0, 3))] if chance(rnd, 50) else []
    density = rnd.choice((10, 25, 45))
    edges: list[dict[str, Any]] = []
    for group in (main, last):
        for target in range(len(group)):
            for source in range(target):
                for _ in range(1 + chance(rnd, 10)):
                    if chance(rnd, density):
                        edges.append(_edge(rnd, f"e{len(edges)}", group[source], group[target], group[: target + 1]))
    rnd.shuffle(edges)
    nodes = {name: _node(rnd, name, main + last, edges) for name in main + last}
    rnd.shuffle(main)
    data = {
        "name": "random",
        "failurePolicy": rnd.choice(("continue", "continue", "failFast")),
        "maxInFlight": rnd.choice((None, None, 1, 2, 3)),
        "priority": rnd.choice((0, 1)),
        "nodes": [nodes[name] for name in main],
        "finally": [nodes[name] for name in last],
        "edges": edges,
        "outputs": {"r": rnd.choice(TEXTS).format(n=rnd.choice(main))} if chance(rnd, 30) else None,
    }
    return Plan.model_validate(data)


def _edge(rnd: Random, edge_id: str, source: str, target: str, upstream: list[str]) -> dict[str, Any]:
    port = rnd.choice(("success", "success", "success", "error", "error", "x", "y"))
    edge: dict[str, Any] = {"edgeId": edge_id, "sourceNodeId": source, "targetNodeId": target, "sourcePort": port}
    if chance(rnd, 35):
        condition = rnd.choice(ERROR_CONDITIONS if port == "error" else CONDITIONS)
        edge["condition"] = condition.format(n=rnd.choice(upstream))
    if chance(rnd, 30):
        edge["targetPort"] = rnd.choice(("p", "q", "x"))
    if chance(rnd, 20):
        edge["mapping"] = rnd.choice(({"x": "p"}, {"y": "x", "x": "y"}, {"error": "e", "type": "x"}, {}))
    return edge


def _node(rnd: Random, name: str, others: list[str], edges: list[dict[str, Any]]) -> dict[str, Any]:
    node: dict[str, Any] = {"nodeId": name, "type": "sleep" if chance(rnd, 10) else "noop"}
    incoming = [edge["edgeId"] for edge in edges if edge["targetNodeId"] == name]
    join = rnd.choice(("allLive", "allLive", "all", "any", "allDone", "boolean"))
    if join != "boolean":
        node["join"] = join
    elif incoming:
        node["join"] = _boolean(rnd, incoming, 3)
    if chance(rnd, 30):
        node["inputs"] = {"own": 1, rnd.choice(("own", "x", "up")): rnd.choice(TEXTS).format(n=rnd.choice(others))}
    if chance(rnd, 15):
        node["descriptor"] = {
            "inputs": [{"name": "p", "required": chance(rnd, 40)}, {"name": "q", "required": True, "defaultValue": 5}],
            "outputs": [{"name": "x", "required": chance(rnd, 40)}, {"name": "y", "defaultValue": [1]}],
        }
    if chance(rnd, 30):
        node["priority"] = rnd.choice((-1, 0, 1, 2))
    if chance(rnd, 30):
        node["requirements"] = {"estimatedDuration": rnd.choice(("1s", "5s", "1m"))}
    return node


def _boolean(rnd: Random, edges: list[str], depth: int) -> str:
    kind = rnd.choice(("edge", "!", "&&", "||")) if depth else "edge"
    if kind == "edge":
        return rnd.choice(edges)
    if kind == "!":
        return f"!({_boolean(rnd, edges, depth - 1)})"
    return f"({_boolean(rnd, edges, depth - 1)} {kind} {_boolean(rnd, edges, depth - 1)})"


def random_outputs(rnd: Random) -> dict[str, Any]:
    """Return outputs of a node; reserved names among them, which must not light their ports."""
    values: tuple[Any, ...] = (1, 2, "text", None, {"deep": [1]})
    return {key: rnd.choice(values) for key in ("x", "y", "p", "error", "success") if chance(rnd, 40)}


def random_error(rnd: Random) -> dict[str, Any]:
    """Return an ErrorPayload in wire form, as far as the state machine looks at it."""
    error: dict[str, Any] = {"type": rnd.choice(("TIMEOUT", "TOOL_ERROR", "LLM_ERROR")), "message": "m"}
    if chance(rnd, 20):
        error["code"] = rnd.choice((7, 8))
    if chance(rnd, 5):
        error["suggestedAction"] = "ABORT"
    return error


def random_event(rnd: Random, model: NaiveRun, troubles: int = 12) -> Event:
    """Return what happens next: mostly the end of a node, now and then something an operator does."""
    if not model.begun:
        return Begin()
    flying = model.in_flight()
    if model.interrupts and troubles and set(flying) - set(model.halting) and chance(rnd, 50):
        return PauseRequested(mode="interrupt")  # often, since most games are short
    if flying and not chance(rnd, troubles):
        node = rnd.choice(flying)
        if model.possible("stopped", node) and chance(rnd, 50):
            return NodeStopped(node)
        if chance(rnd, 30):
            return NodeFailed(node, random_error(rnd))
        return NodeSucceeded(node, random_outputs(rnd))
    waiting = [node for node, status in model.status.items() if status == "PENDING"]
    options: list[Event] = [ResumeRequested()] * 3 if model.paused else [PauseRequested()] * 2
    options += [PauseRequested(mode="interrupt")] * 2 if model.interrupts else []
    options += [CancelRequested("op", "enough"), TimedOut()]
    if waiting:
        last = [node for node in waiting if node in model.last()]
        node = rnd.choice(last if last and chance(rnd, 50) else waiting)
        options += [SkipRequested(node), SkipRequested(node, random_outputs(rnd))] * 2
    return rnd.choice(options)


def any_event(rnd: Random, model: NaiveRun) -> Event:
    """Return an event that may well be impossible."""
    node = rnd.choice([*model.status, "nobody"])
    return rnd.choice(
        (
            Begin(),
            NodeSucceeded(node, {}),
            NodeFailed(node, {"type": "TIMEOUT"}),
            NodeStopped(node),
            PauseRequested(),
            PauseRequested(mode="interrupt"),
            ResumeRequested(),
            CancelRequested(),
            TimedOut(),
            SkipRequested(node),
        )
    )
