"""Builders of nodes that hold other nodes: :func:`sub_plan`, :func:`for_each` and :func:`repeat`.

.. code-block:: python

    charge = NodeBuilder("Charge", "http").input({"url": "https://pay.example", "body": "${inputs.item}"})
    each = for_each("Charge all", "${inputs.orders}", charge, max_concurrency=5, tolerated_failures="10%")

A body is a node or plan, its builder, or the wire form of either; a stored plan is ``{"name": ..., "version": ...}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from dalang.builder import NodeBuilder, PlanBuilder
from dalang.plan import Node, Plan

BodyLike: TypeAlias = NodeBuilder | PlanBuilder | Node | Plan | Mapping[str, Any]


def sub_plan(name: str, plan: BodyLike, *, node_id: str | None = None) -> NodeBuilder:
    """Return the builder of a node that runs ``plan``; its inputs are the plan's."""
    return NodeBuilder(name, "plan", node_id=node_id).holding("plan", _body(plan))


def for_each(
    name: str,
    items: str | Sequence[Any],
    body: BodyLike,
    *,
    max_concurrency: int | None = None,
    tolerated_failures: int | str = 0,
    node_id: str | None = None,
) -> NodeBuilder:
    """Return the builder of a node that runs ``body`` for each of ``items``, an expression or a list."""
    spec: dict[str, Any] = {"items": items if isinstance(items, str) else list(items), "body": _body(body)}
    if max_concurrency is not None:
        spec["maxConcurrency"] = max_concurrency
    if tolerated_failures != 0:
        spec["toleratedFailures"] = tolerated_failures
    return NodeBuilder(name, "map", node_id=node_id).holding("map", spec)


def repeat(name: str, body: BodyLike, *, until: str, max_iterations: int, node_id: str | None = None) -> NodeBuilder:
    """Return the builder of a node that runs ``body`` until the CEL condition holds, at most so many times."""
    spec = {"body": _body(body), "until": until, "maxIterations": max_iterations}
    return NodeBuilder(name, "loop", node_id=node_id).holding("loop", spec)


def _body(body: BodyLike) -> dict[str, Any]:
    if isinstance(body, (NodeBuilder, PlanBuilder)):
        return body.document()
    if isinstance(body, Plan):
        return body.wire()
    if isinstance(body, Node):
        return body.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return dict(body)
