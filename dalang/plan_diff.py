"""What differs between two revisions of a plan: by id, whole for people who review it, short for the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_LISTED = 100
"""Ids of each kind that stand in a record; the counts are always whole."""

Document = Mapping[str, Any]
_LISTS = ("nodes", "edges", "finally")
_NOT_OF_THE_PLAN = ("planId", "version")


def plan_diff(before: Document, after: Document) -> dict[str, Any]:
    """Return what ``after`` has otherwise than ``before``, both plans in wire form with all ids.

    ``{plan, nodes, edges}``: of the plan's own fields ``{field: {before, after}}``; of nodes and edges ``{added,
    removed, changed}``, each by id, added and removed as they are, changed as ``{field: {before, after}}``. What is
    missing on one side is null. A node that moved between ``nodes`` and ``finally`` has changed its ``finally``.
    """
    fields = [name for name in {**before, **after} if name not in (*_LISTS, *_NOT_OF_THE_PLAN)]
    return {
        "plan": _fields({name: before.get(name) for name in fields}, {name: after.get(name) for name in fields}),
        "nodes": _items(_nodes(before), _nodes(after)),
        "edges": _items(_edges(before), _edges(after)),
    }


def summary(diff: Mapping[str, Any]) -> dict[str, Any]:
    """Return the diff as it is recorded: ids and names of fields, at most :data:`MAX_LISTED` of each kind."""
    return {
        "plan": list(diff["plan"])[:MAX_LISTED],
        **{
            kind: {change: list(found)[:MAX_LISTED] for change, found in diff[kind].items() if found}
            for kind in ("nodes", "edges")
        },
    }


def counts(diff: Mapping[str, Any]) -> dict[str, int]:
    """Return how much a diff changes: ``{nodesAdded, nodesRemoved, nodesChanged, edgesAdded, ...}``, no zeros."""
    found = {
        f"{kind}{change.capitalize()}": len(diff[kind][change])
        for kind in ("nodes", "edges")
        for change in ("added", "removed", "changed")
    }
    return {name: count for name, count in {**found, "fieldsChanged": len(diff["plan"])}.items() if count}


def _nodes(document: Document) -> dict[str, Any]:
    main = {node["nodeId"]: node for node in document.get("nodes", ())}
    return {**main, **{node["nodeId"]: {**node, "finally": True} for node in document.get("finally", ())}}


def _edges(document: Document) -> dict[str, Any]:
    return {edge["edgeId"]: edge for edge in document.get("edges", ())}


def _items(before: Mapping[str, Document], after: Mapping[str, Document]) -> dict[str, Any]:
    return {
        "added": {key: value for key, value in after.items() if key not in before},
        "removed": {key: value for key, value in before.items() if key not in after},
        "changed": {
            key: _fields(before[key], value) for key, value in after.items() if key in before and before[key] != value
        },
    }


def _fields(before: Document, after: Document) -> dict[str, Any]:
    return {
        name: {"before": before.get(name), "after": after.get(name)}
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    }
