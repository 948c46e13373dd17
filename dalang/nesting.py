"""Plans within plans: the plan that a node of type ``plan``, ``map`` or ``loop`` runs, as a plan of its own.

Whatever the form of a body, the runs below a node run a *plan*: the inline one, or one made around a single node. A map
over a plan is a map over one node, of type ``plan``, with that plan. So there is one way down, however deep.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from dalang.plan import PLAN_NAMESPACE, Node, Plan, with_derived_ids

CONTAINER_TYPES = ("plan", "map", "loop")
MAX_DEPTH = 8
"""How many plans deep a plan may go, itself included."""
BODY_ID = "body"
"""The nodeId of a body that is one node and gives none."""


def body_of(node: Node) -> Mapping[str, Any] | None:
    """Return the body of a container node as it is written; None for any other node, or where it is missing."""
    if node.type == "plan":
        return node.plan
    if node.type == "map":
        return None if node.map is None else node.map.body
    if node.type == "loop":
        return None if node.loop is None else node.loop.body
    return None


def is_node(body: Mapping[str, Any]) -> bool:
    """Tell whether a body is one node."""
    return "type" in body and "nodes" not in body


def is_reference(body: Mapping[str, Any]) -> bool:
    """Tell whether a body names a stored plan."""
    return "type" not in body and "nodes" not in body


def with_body(node: Node, body: Mapping[str, Any]) -> Node:
    """Return the container node with another body."""
    if node.type == "plan":
        return node.model_copy(update={"plan": dict(body)})
    field = node.map if node.type == "map" else node.loop
    assert field is not None
    return node.model_copy(update={node.type: field.model_copy(update={"body": dict(body)})})


def body_plan(plan: Plan, node: Node) -> Plan | None:
    """Return the plan that the runs below ``node`` run; None when its body names a stored plan."""
    body = body_of(node)
    if body is None or is_reference(body):
        return None
    if is_node(body):
        return _around(plan, node, Node.model_validate({"nodeId": BODY_ID, **body}))
    inline = with_derived_ids(Plan.model_validate({"name": node.node_id, **body}))
    if node.type == "map":
        element = Node(node_id=BODY_ID, name=inline.name, type="plan", plan=inline.wire())
        return _around(plan, node, element.model_copy(update={"inputs": {}}))
    return inline


def _around(plan: Plan, node: Node, body: Node) -> Plan:
    name = f"{plan.name[:290]}/{node.node_id}"
    return with_derived_ids(Plan(name=name, version=plan.version, max_retries=plan.max_retries, nodes=(body,)))


def embedded_plans(plan: Plan) -> Iterator[Plan]:
    """Yield every plan within ``plan``, outer ones first; those that are only named are not followed."""
    for inner in _inner_plans(plan):
        yield inner
        yield from embedded_plans(inner)


def names_stored_plans(plan: Plan) -> bool:
    """Tell whether a plan, or one in it, names a stored plan that has to be looked up."""
    for node in plan.all_nodes():
        body = body_of(node) if node.type in CONTAINER_TYPES else None
        if body is not None and is_reference(body):
            return True
    return any(names_stored_plans(inner) for inner in _inner_plans(plan))


def _inner_plans(plan: Plan) -> Iterator[Plan]:
    for node in plan.all_nodes():
        inner = body_plan(plan, node) if node.type in CONTAINER_TYPES else None
        if inner is not None:
            yield inner


def child_run_id(run_id: str, node_id: str, iteration: int, generation: int) -> str:
    """Return the id of the run below a node: the same start has the same id, in every process and after a reset."""
    try:
        namespace = uuid.UUID(run_id)
    except ValueError:
        namespace = uuid.uuid5(PLAN_NAMESPACE, run_id)
    return str(uuid.uuid5(namespace, f"{node_id}:{iteration}:{generation}"))


def undo_run_id(run_id: str) -> str:
    """Return the id of the run that undoes a finished run: there is one at most."""
    return str(uuid.uuid5(uuid.UUID(run_id), "undo"))
