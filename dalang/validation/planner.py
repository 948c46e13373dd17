"""Changing a plan while it runs: that its planner can be asked, and that somebody asks it."""

from __future__ import annotations

from dalang.nodes import BUILT_IN_TYPES
from dalang.validation import later
from dalang.validation.llm import check_llm_inputs
from dalang.validation.report import Problems
from dalang.validation.structure import Draft
from dalang.validation.undo import NO_WORK


def check_planner(draft: Draft, registered: frozenset[str] | None, problems: Problems) -> None:
    """Check the plan's ``planner`` and ``maxReplans``, and the nodes that are evaluators."""
    planner = draft.head.planner
    if planner is not None:
        _check_type(draft, registered, problems)
    elif draft.head.max_replans is not None:
        message = "The plan has no `planner`, so `maxReplans` has no effect."
        problems.warning("NO_PLANNER", ("maxReplans",), message)
    for node in draft.nodes:
        if node.model is None or not node.model.evaluator:
            continue
        steps = (*node.steps, "evaluator")
        if node.is_finally:
            message = f"`{node.id}` is a finally node: the plan does not change any more when it runs."
            problems.error("FINALLY_EVALUATOR", steps, message, node.id)
        elif planner is None:
            message = f"The plan has no `planner`; when `{node.id}` says replan, it fails."
            problems.warning("NO_PLANNER", steps, message, node.id)


def _check_type(draft: Draft, registered: frozenset[str] | None, problems: Problems) -> None:
    planner = draft.head.planner
    assert planner is not None
    types = None if registered is None else [*BUILT_IN_TYPES, *sorted(registered.difference(BUILT_IN_TYPES))]
    steps = ("planner", "type")
    if planner.type in NO_WORK:
        message = f"`{planner.type}` makes no plans; a planner is an agent, http or python call, or a type of your own."
        problems.error("BAD_PLANNER", steps, message)
    elif later.refuse_type(planner.type, steps, problems, None):
        return
    elif types is not None and planner.type not in types:
        hint = problems.hint(planner.type, types) or f"; there are {', '.join(types[:20])}."
        message = f"There is no node type `{planner.type}`{hint} Functions become types with @node."
        problems.error("UNKNOWN_NODE_TYPE", steps, message)
    elif planner.type in ("http", "runtime-hub") and "url" not in planner.inputs:
        message = f"A planner of type {planner.type} needs the input `url`."
        problems.error("MISSING_INPUT", ("planner", "inputs"), message)
    elif planner.type == "mcp":
        for name in ("server", "tool"):
            if name not in planner.inputs:
                problems.error("MISSING_INPUT", ("planner", "inputs"), f"An mcp planner needs the input `{name}`.")
    elif planner.type == "llm":
        # A planner's inputs are taken as they are, so nothing in them is an expression.
        check_llm_inputs(planner.inputs, ("planner", "inputs"), registered, problems, None, lambda value: False)
    elif planner.type == "python":
        _check_handler(planner.handler, registered, problems)


def _check_handler(handler: str | None, registered: frozenset[str] | None, problems: Problems) -> None:
    steps = ("planner", "handler")
    if not handler:
        message = "A python planner names its function: `handler: <name given to @node>`."
        problems.error("MISSING_FIELD", steps, message)
    elif registered is not None and handler not in registered:
        names = sorted(registered.difference(BUILT_IN_TYPES))
        hint = problems.hint(handler, names) or f"; there are {', '.join(names[:20]) or 'none'}."
        problems.error("UNKNOWN_HANDLER", steps, f"No function is registered as `{handler}`{hint}")
