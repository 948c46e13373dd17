"""A patch of a plan: what a revision adds, removes and changes, in a form that people and planners can write and read.

.. code-block:: yaml

    set: {timeout: 3h}                          # fields of the plan; null takes one away
    removeEdges: [draft->publish]               # by edgeId
    removeNodes: [old]                          # its edges have to be removed, too: nothing goes silently
    replaceNodes: [{nodeId: publish, ...}]      # whole nodes, found by their nodeId
    addNodes: [{nodeId: check, type: agent}]    # addFinally: the same for `finally` nodes
    replaceEdges: [{edgeId: e1, ...}]
    addEdges: [{sourceNodeId: draft, targetNodeId: check}]
    changeInputs: {publish: {channel: beta}}    # key by key

They apply in this order. JSON Patch would say the same by positions in lists, which nobody can write for a plan that
others are changing, too; here everything goes by id, and a patch that is applied to another revision than it was made
for still means what it says, or is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dalang.canonical import find_unsafe, pointer, safe_text
from dalang.errors import Problem

SETTABLE = (
    "description", "timeout", "failurePolicy", "maxInFlight", "outputs", "metadata", "maxReplans", "planner",
    "compensate",
    "budget",
)  # fmt: skip
"""The plan's fields that may change while a run of it goes on: not its name, its inputs, or its priority."""
MAX_CHANGES = 20_000
"""Entries of a patch; who changes more brings a whole plan."""

_LISTS = ("removeEdges", "removeNodes", "replaceNodes", "addNodes", "addFinally", "replaceEdges", "addEdges")
_OBJECTS = ("set", "changeInputs")
OPERATIONS = ("set", *_LISTS, "changeInputs")


@dataclass
class Patched:
    """A plan's document with a patch applied, and what was wrong with the patch.

    ``places`` leads from ``("nodes", nodeId)``, ``("edges", edgeId)`` or ``("set", field)`` to the pointer into the
    patch of what put it there; of a node whose inputs were changed ``("inputs", nodeId)``. An edge that was
    added stands under its place in the list, ``("edges", number)``.
    """

    document: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)
    places: dict[tuple[str, str | int], str] = field(default_factory=dict)

    def _problem(self, code: str, steps: tuple[str | int, ...], message: str, **about: str) -> None:
        self.problems.append(Problem(pointer=pointer(*steps), code=code, message=safe_text(message, 1000), **about))


def apply_patch(document: Mapping[str, Any], patch: Any) -> Patched:
    """Return the plan document that ``patch`` makes of ``document``, with every problem of the patch itself.

    Whether the result is a valid plan is a question for validation; pointers here lead into the patch. ``document``
    is a plan's wire form, with all ids filled in; it is not changed.
    """
    result = Patched(dict(document))
    if not _well_formed(patch, result):
        return result
    _set(patch.get("set", {}), result)
    edges = {edge["edgeId"]: edge for edge in document.get("edges", ())}
    nodes = {node["nodeId"]: node for node in document.get("nodes", ())}
    last = {node["nodeId"]: node for node in document.get("finally", ())}
    _remove_edges(edges, patch.get("removeEdges", ()), result)
    for number, node_id in enumerate(patch.get("removeNodes", ())):
        if nodes.pop(node_id, None) is None and last.pop(node_id, None) is None:
            result._problem("UNKNOWN_NODE", ("removeNodes", number), f"The plan has no node `{node_id}`.")
        result.places["nodes", node_id] = pointer("removeNodes", number)
    for number, node in enumerate(patch.get("replaceNodes", ())):
        node_id = node.get("nodeId")
        group = nodes if node_id in nodes else last
        if node_id not in group:
            result._problem("UNKNOWN_NODE", ("replaceNodes", number), f"The plan has no node `{node_id}` to replace.")
            continue
        group[node_id] = node
        result.places["nodes", node_id] = pointer("replaceNodes", number)
    for operation, group in (("addNodes", nodes), ("addFinally", last)):
        for number, node in enumerate(patch.get(operation, ())):
            _add_node(node, operation, number, group, {**nodes, **last}, result)
    _change_inputs(patch.get("changeInputs", {}), (nodes, last), result)
    _replace_edges(edges, patch.get("replaceEdges", ()), result)
    added = _added_edges(edges, patch.get("addEdges", ()), result)
    _orphans(patch.get("removeNodes", ()), {**nodes, **last}, list(edges.values()), result)
    kept = list(edges.values())
    for number, index in enumerate(added):
        result.places["edges", len(kept) + number] = pointer("addEdges", index)
    result.document["nodes"] = list(nodes.values())
    result.document["edges"] = kept + [patch["addEdges"][index] for index in added]
    if last or "finally" in document:
        result.document["finally"] = list(last.values())
    return result


def _well_formed(patch: Any, result: Patched) -> bool:
    """Whether the patch is an object of lists and objects; everything that is wrong with its shape is a problem."""
    if not isinstance(patch, Mapping) or not patch:
        known = ", ".join(OPERATIONS)
        result._problem("NOT_AN_OBJECT", (), f"A patch is an object with at least one of {known}.")
        return False
    unsafe = find_unsafe(patch)
    if unsafe is not None:
        result.problems.append(Problem(pointer=unsafe[0], code="NOT_JSON", message=f"The value {unsafe[1]}."))
        return False
    for name, value in patch.items():
        if name not in OPERATIONS:
            result._problem("UNKNOWN_FIELD", (name,), f"A patch has no `{name}`; it has {', '.join(OPERATIONS)}.")
        elif name in _LISTS:
            _check_list(name, value, result)
        elif not isinstance(value, Mapping):
            result._problem("WRONG_TYPE", (name,), f"`{name}` is an object.")
    if not result.problems and sum(len(value) for value in patch.values()) > MAX_CHANGES:
        result._problem("BAD_VALUE", (), f"A patch has at most {MAX_CHANGES:,} entries; give the whole plan instead.")
    return not result.problems


def _check_list(name: str, value: Any, result: Patched) -> None:
    if not isinstance(value, list):
        result._problem("WRONG_TYPE", (name,), f"`{name}` is a list.")
        return
    wanted, text = (str, "an id") if name.startswith("remove") else (Mapping, "an object")
    for number, entry in enumerate(value):
        if not isinstance(entry, wanted):
            result._problem("WRONG_TYPE", (name, number), f"An entry of `{name}` is {text}.")
        elif isinstance(entry, Mapping):
            for key in ("nodeId", "edgeId"):
                if not isinstance(entry.get(key), (str, type(None))):
                    result._problem("WRONG_TYPE", (name, number, key), f"`{key}` is a text.")


def _set(values: Mapping[str, Any], result: Patched) -> None:
    for name, value in values.items():
        if name not in SETTABLE:
            message = f"`{name}` cannot change while a run goes on; what can is {', '.join(SETTABLE)}."
            result._problem("BAD_VALUE", ("set", name), message)
        elif value is None:
            result.document.pop(name, None)
        else:
            result.document[name] = value
            result.places["set", name] = pointer("set", name)


def _remove_edges(edges: dict[str, Any], ids: list[str], result: Patched) -> None:
    for number, edge_id in enumerate(ids):
        if edges.pop(edge_id, None) is None:
            message = f"The plan has no edge `{edge_id}`."
            result._problem("UNKNOWN_EDGE", ("removeEdges", number), message, edge_id=edge_id)
        result.places["edges", edge_id] = pointer("removeEdges", number)


def _add_node(
    node: Mapping[str, Any],
    operation: str,
    number: int,
    group: dict[str, Any],
    known: Mapping[str, Any],
    result: Patched,
) -> None:
    node_id = node.get("nodeId")
    if node_id is None:
        result._problem("MISSING_FIELD", (operation, number, "nodeId"), "A node needs a nodeId.")
    elif node_id in known:
        message = f"The plan has a node `{node_id}` already; replaceNodes changes it."
        result._problem("DUPLICATE_NODE_ID", (operation, number, "nodeId"), message, node_id=node_id)
    else:
        group[node_id] = node
        result.places["nodes", node_id] = pointer(operation, number)


def _change_inputs(changes: Mapping[str, Any], groups: tuple[dict[str, Any], dict[str, Any]], result: Patched) -> None:
    for node_id, inputs in changes.items():
        group = next((group for group in groups if node_id in group), None)
        if group is None:
            message = f"The plan has no node `{node_id}`."
            result._problem("UNKNOWN_NODE", ("changeInputs", node_id), message)
        elif not isinstance(inputs, Mapping):
            result._problem("WRONG_TYPE", ("changeInputs", node_id), "Inputs are an object.", node_id=node_id)
        else:
            before = group[node_id].get("inputs")
            group[node_id] = {
                **group[node_id],
                "inputs": {**(before if isinstance(before, Mapping) else {}), **inputs},
            }
            result.places["inputs", node_id] = pointer("changeInputs", node_id)


def _replace_edges(edges: dict[str, Any], replacements: list[Mapping[str, Any]], result: Patched) -> None:
    for number, edge in enumerate(replacements):
        edge_id = edge.get("edgeId")
        if edge_id not in edges:
            message = f"The plan has no edge `{edge_id}` to replace; edges are found by edgeId."
            result._problem("UNKNOWN_EDGE", ("replaceEdges", number), message)
        else:
            edges[edge_id] = edge
            result.places["edges", edge_id] = pointer("replaceEdges", number)


def _added_edges(edges: Mapping[str, Any], added: list[Mapping[str, Any]], result: Patched) -> list[int]:
    """Return the numbers of the new edges that can be added."""
    found: list[int] = []
    for number, edge in enumerate(added):
        edge_id = edge.get("edgeId")
        if edge_id is not None and edge_id in edges:
            message = f"The plan has an edge `{edge_id}` already; replaceEdges changes it."
            result._problem("DUPLICATE_EDGE_ID", ("addEdges", number, "edgeId"), message, edge_id=edge_id)
        else:
            found.append(number)
    return found


def _orphans(removed: list[str], nodes: Mapping[str, Any], edges: list[Mapping[str, Any]], result: Patched) -> None:
    """Report edges that a removed node leaves behind."""
    gone = {node_id: number for number, node_id in enumerate(removed) if node_id not in nodes}
    for edge in edges:
        for end in (edge.get("sourceNodeId"), edge.get("targetNodeId")):
            if end in gone:
                message = f"The edge `{edge['edgeId']}` would be left without its node `{end}`; remove it, too."
                result._problem("ORPHANED_EDGE", ("removeNodes", gone[end]), message, edge_id=edge["edgeId"])
