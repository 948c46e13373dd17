"""Which nodes may be run together with others (``execution: local``): short ones that are safe to run twice."""

from __future__ import annotations

from collections.abc import Collection

from dalang.implementations import carried_out_as, implementation_of
from dalang.nodes import BUILT_IN_TYPES
from dalang.plan import Execution, Node, Plan

LOCAL_START_TO_CLOSE_MS = 10_000
"""How long an attempt may take where the plan does not say."""
LIGHT_START_TO_CLOSE_MS = 2_000
"""The same where its function is registered as light."""
MAX_LOCAL_MS = 60_000
"""How long it may take at most: a run that is cancelled waits for it."""
LOCAL_TYPES = frozenset({"noop", "python", "http", "wasm"})
"""Built-in types that can be; a function that was registered with @node can, too."""


def is_local(plan: Plan, node: Node, light: Collection[str] = ()) -> bool:
    """Tell whether a node is run together with others: it, or the plan, says so, and nothing is against it.

    Where neither says anything, a node is whose function is among the ``light`` ones.
    """
    said = node.execution or plan.execution
    wanted = _function_of(node) in light if said is None else said is Execution.LOCAL
    return wanted and why_not_local(node) is None


def start_to_close_ms(node: Node, light: Collection[str]) -> int:
    """Return how long an attempt of a node that is local may take where the plan does not say."""
    return LIGHT_START_TO_CLOSE_MS if _function_of(node) in light else LOCAL_START_TO_CLOSE_MS


def _function_of(node: Node) -> str | None:
    """Return the name of the registered function that does the work, if one does."""
    kind = carried_out_as(node)
    if kind != "python":
        return kind
    implementation = implementation_of(node)
    return node.handler or (None if implementation is None else implementation.coordinate)


def why_not_local(node: Node) -> tuple[str, str] | None:
    """Return what keeps a node from being run together with others, as the field and a reason, or None."""
    kind = carried_out_as(node)
    if kind in BUILT_IN_TYPES and kind not in LOCAL_TYPES:
        return "type", f"a node of type {kind} is not run by a function that ends soon"
    if node.compensation is not None:
        return "compensation", "what is undone must be known to have begun"
    if node.pivot:
        return "pivot", "the point of no return is passed once"
    if node.callback is not None:
        return "callback", "it waits for somebody"
    if node.evaluator:
        return "evaluator", "its verdict is waited for"
    if node.memory is not None:
        return "memory", "what it remembers is looked up for it alone"
    if node.requirements.pools or node.requirements.capabilities:
        return "requirements", "it waits for a lease of its own"
    if node.timeouts.schedule_to_close is not None:
        return "timeouts", "scheduleToClose counts over attempts that are made in different places"
    if (node.timeouts.start_to_close or 0) > MAX_LOCAL_MS:
        return "timeouts", f"startToClose is at most {MAX_LOCAL_MS // 1000} s"
    return None
