"""Compensation: that it can be begun, and that what the plan says about undoing has an effect."""

from __future__ import annotations

from collections.abc import Sequence

from dalang.implementations import ISOLATED
from dalang.nodes import BUILT_IN_TYPES
from dalang.plan import Node
from dalang.plan_undo import Compensate, Compensation
from dalang.validation import later
from dalang.validation.report import Problems
from dalang.validation.structure import Draft, NodeAt

WAITS = ("sleep", "human", "timer", "event", "callback")
CONTAINERS = ("plan", "map", "loop")
NO_WORK = (*WAITS, *CONTAINERS, *ISOLATED)
"""Node types that undo nothing: they wait, are made of nodes, or run what a descriptor names, of which there is none.
"""


def check_undo(draft: Draft, registered: frozenset[str] | None, problems: Problems) -> None:
    """Check every compensation and pivot, and the plan's ``compensate`` against them."""
    types = None if registered is None else [*BUILT_IN_TYPES, *sorted(registered.difference(BUILT_IN_TYPES))]
    undoable = False
    for node in draft.nodes:
        model = node.model
        if model is None:
            continue
        undoable = undoable or model.type in CONTAINERS  # the nodes in it may have compensations
        if node.is_finally:
            _check_finally(node, model, problems)
        elif model.compensation is not None:
            undoable = True
            if model.pivot:
                message = (
                    f"`{node.id}` is a pivot: once it succeeded it is not undone, so its compensation only runs when it"
                    " failed or was stopped and may have taken effect."
                )
                problems.warning("PIVOT_COMPENSATION", (*node.steps, "compensation"), message, node.id)
        if model.compensation is not None:
            _check_compensation(node, model.compensation, types, registered, problems)
    _check_plan(draft, undoable, problems)


def _check_finally(node: NodeAt, model: Node, problems: Problems) -> None:
    for name, given in (("compensation", model.compensation is not None), ("pivot", model.pivot)):
        if given:
            message = f"`{node.id}` is a finally node, which runs after the undo; it has no `{name}`."
            problems.error("FINALLY_UNDO", (*node.steps, name), message, node.id)


def _check_plan(draft: Draft, undoable: bool, problems: Problems) -> None:
    if undoable or not draft.is_complete:
        if undoable and draft.head.compensate is Compensate.NEVER:
            message = "`compensate` is never, so the compensations of the nodes have no effect."
            problems.warning("NOTHING_TO_UNDO", ("compensate",), message)
        return
    if draft.head.compensate not in (None, Compensate.NEVER):
        message = "No node declares a `compensation`, so `compensate` has no effect."
        problems.warning("NOTHING_TO_UNDO", ("compensate",), message)
    for node in draft.nodes:
        if node.model is not None and node.model.pivot and not node.is_finally:
            message = (
                "No node declares a `compensation`; after this pivot failures wait for an operator, and that is all."
            )
            problems.warning("NOTHING_TO_UNDO", (*node.steps, "pivot"), message, node.id)


def _check_compensation(
    node: NodeAt,
    undo: Compensation,
    types: Sequence[str] | None,
    registered: frozenset[str] | None,
    problems: Problems,
) -> None:
    steps, kind = (*node.steps, "compensation"), undo.type
    if kind in NO_WORK:
        message = f"`{kind}` undoes nothing; a compensation is an http, python or agent call, or a type of your own."
        problems.error("BAD_COMPENSATION", (*steps, "type"), message, node.id)
        return
    if later.refuse_type(kind, (*steps, "type"), problems, node.id):
        return
    if types is not None and kind not in types:
        hint = problems.hint(kind, types) or f"; there are {', '.join(types[:20])}."
        message = f"There is no node type `{kind}`{hint} Functions become types with @node."
        problems.error("UNKNOWN_NODE_TYPE", (*steps, "type"), message, node.id)
    elif kind == "python":
        _check_handler(node, undo, registered, problems)
    elif kind in ("http", "a2a", "runtime-hub") and "url" not in (
        node_inputs(node) if undo.inputs is None else undo.inputs
    ):
        message = f"A compensation of type {kind} needs the input `url`."
        problems.error("MISSING_INPUT", (*steps, "inputs"), message, node.id)
    elif kind == "mcp":
        given = node_inputs(node) if undo.inputs is None else undo.inputs
        for name in ("server", "tool"):
            if name not in given:
                message = f"An mcp compensation needs the input `{name}`."
                problems.error("MISSING_INPUT", (*steps, "inputs"), message, node.id)


def node_inputs(node: NodeAt) -> dict[str, object]:
    """Return the inputs a node names itself, which are those of a compensation that names none."""
    return {} if node.model is None else dict(node.model.inputs)


def _check_handler(node: NodeAt, undo: Compensation, registered: frozenset[str] | None, problems: Problems) -> None:
    steps = (*node.steps, "compensation", "handler")
    if not undo.handler:
        message = "A python compensation names its function: `handler: <name given to @node>`."
        problems.error("MISSING_FIELD", steps, message, node.id)
    elif registered is not None and undo.handler not in registered:
        names = sorted(registered.difference(BUILT_IN_TYPES))
        hint = problems.hint(undo.handler, names) or f"; there are {', '.join(names[:20]) or 'none'}."
        problems.error("UNKNOWN_HANDLER", steps, f"No function is registered as `{undo.handler}`{hint}", node.id)
