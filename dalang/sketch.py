"""A plan as far as it is drawn: what a picture needs of it, and a quick way to that from a stored document.

A stored plan was validated when it was stored. Reading one with 12,000 nodes into its models takes two seconds, and
whoever opens the page of its run sees nothing meanwhile; this takes a twentieth of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dalang.durations import parse_duration
from dalang.plan import SUCCESS_PORT, Edge, Node, Plan


@dataclass(slots=True)
class SketchedNeeds:
    """What a node asks for."""

    capabilities: tuple[str, ...] = ()


@dataclass(slots=True)
class SketchedNode:
    """A node; ``estimate`` is how long it takes as the plan says, in milliseconds."""

    node_id: str
    name: str | None
    type: str
    handler: str | None
    description: str | None
    join: str
    requirements: SketchedNeeds
    estimate: int | None


@dataclass(slots=True)
class SketchedEdge:
    """An edge."""

    edge_id: str
    source_node_id: str
    source_port: str
    target_node_id: str
    target_port: str | None
    condition: str | None
    mapping: Mapping[str, str] | None


@dataclass(slots=True)
class Sketch:
    """A plan."""

    name: str
    nodes: tuple[SketchedNode, ...]
    edges: tuple[SketchedEdge, ...]
    finally_: tuple[SketchedNode, ...] = ()

    def all_nodes(self) -> tuple[SketchedNode, ...]:
        """Return the nodes and, after them, the ``finally`` nodes."""
        return self.nodes + self.finally_


DrawnNode = Node | SketchedNode
DrawnEdge = Edge | SketchedEdge
DrawnPlan = Plan | Sketch


def sketch(document: Mapping[str, Any], *, elements: int | None = None) -> Sketch:
    """Return what is drawn of a stored plan; with ``elements`` (the run of a map) its node so often, by number."""
    nodes = tuple(_node(one) for one in document.get("nodes", ()))
    name = document.get("name", "")
    if elements is not None:
        (kind, handler) = (nodes[0].type, nodes[0].handler) if nodes else ("unknown", None)
        none = SketchedNeeds()
        of_map = (SketchedNode(str(at), None, kind, handler, None, "allLive", none, None) for at in range(elements))
        return Sketch(name, tuple(of_map), ())
    edges = tuple(_edge(one) for one in document.get("edges", ()))
    return Sketch(name, nodes, edges, tuple(_node(one) for one in document.get("finally", ())))


_NOTHING = SketchedNeeds()


def _node(one: Mapping[str, Any]) -> SketchedNode:
    needs = one.get("requirements") or {}
    capabilities = needs.get("capabilities")
    return SketchedNode(
        one["nodeId"],
        one.get("name"),
        one["type"],
        one.get("handler"),
        one.get("description"),
        one.get("join", "allLive"),
        SketchedNeeds(tuple(capabilities)) if capabilities else _NOTHING,
        _estimate(one, needs),
    )


def _estimate(one: Mapping[str, Any], needs: Mapping[str, Any]) -> int | None:
    told = needs.get("estimatedDuration")
    if told is None and one["type"] in ("sleep", "timer"):
        told = (one.get("inputs") or {}).get("duration")
    if told is None or isinstance(told, int):
        return told
    try:
        return parse_duration(told)
    except ValueError:
        return None


def _edge(one: Mapping[str, Any]) -> SketchedEdge:
    return SketchedEdge(
        one.get("edgeId") or f"{one['sourceNodeId']}->{one['targetNodeId']}",
        one["sourceNodeId"],
        one.get("sourcePort", SUCCESS_PORT),
        one["targetNodeId"],
        one.get("targetPort"),
        one.get("condition"),
        one.get("mapping"),
    )
