"""Implementations: that what a descriptor names can be carried out, and that it is said exactly which code that is."""

from __future__ import annotations

from dalang.implementations import ISOLATED, carried_out_as, implementation_of, problem_with
from dalang.nodes import BUILT_IN_TYPES
from dalang.plan import Implementation, Node
from dalang.validation.report import Problems, Steps, shown
from dalang.validation.structure import Draft, NodeAt


def check_implementations(draft: Draft, registered: frozenset[str] | None, problems: Problems) -> None:
    """Check the implementation of every node that is carried out by one."""
    for node in draft.nodes:
        if node.model is None:
            continue
        steps = (*node.steps, "descriptor", "implementation")
        implementation = implementation_of(node.model)
        if node.model.type in ISOLATED and (implementation is None or implementation.type != node.model.type):
            kind = node.model.type
            message = f"A {kind} node names its code: `descriptor: {{implementation: {{type: {kind}, ...}}}}`."
            if implementation is None:
                problems.error("MISSING_FIELD", steps, message, node.id)
            else:
                problems.error("BAD_IMPLEMENTATION", (*steps, "type"), message, node.id)
        elif implementation is not None:
            _check(node, node.model, implementation, registered, steps, problems)


def _check(
    node: NodeAt,
    model: Node,
    implementation: Implementation,
    registered: frozenset[str] | None,
    steps: Steps,
    problems: Problems,
) -> None:
    is_own = model.type not in BUILT_IN_TYPES and carried_out_as(model) != model.type
    is_run = is_own or model.type == implementation.type in (*ISOLATED, "python")
    if not is_run:
        _without_effect(node, implementation, model.type, (), steps, problems)
        return
    if is_own and registered is not None and model.type in registered:
        same = implementation.type == "python" and implementation.coordinate == model.type
        if not same:
            message = (
                f"`{model.type}` is a registered function, and the descriptor names another implementation: leave one "
                "of them out, or give the type another name."
            )
            problems.error("AMBIGUOUS_IMPLEMENTATION", steps, message, node.id)
    if is_own and model.handler is not None:
        message = "The descriptor's implementation carries the node out, so `handler` has no effect."
        problems.error("WITHOUT_EFFECT", (*node.steps, "handler"), message, node.id)
    wrong = problem_with(implementation)
    if wrong is not None:
        field, sentence = wrong
        value = getattr(implementation, field)
        is_unwanted = field == "digest" and implementation.type == "http"
        not_this = "" if value is None or is_unwanted else f" Not {shown(value)}."
        code = "MISSING_FIELD" if value is None else "BAD_IMPLEMENTATION"
        problems.error(code, (*steps, field), f"`{field}` {sentence}{not_this}", node.id)
    elif is_own and implementation.type == "python" and registered is not None:
        _check_function(node, implementation.coordinate, registered, steps, problems)
    takes = {"wasm": ("args", "limits"), "container": ("args",)}.get(implementation.type, ())
    _without_effect(node, implementation, implementation.type, takes, steps, problems)


def _check_function(node: NodeAt, name: str, registered: frozenset[str], steps: Steps, problems: Problems) -> None:
    if name in registered:
        return
    names = sorted(registered.difference(BUILT_IN_TYPES))
    hint = problems.hint(name, names) or f"; there are {', '.join(names[:20]) or 'none'}."
    problems.error("UNKNOWN_HANDLER", (*steps, "coordinate"), f"No function is registered as `{name}`{hint}", node.id)


def _without_effect(
    node: NodeAt, implementation: Implementation, kind: str, takes: tuple[str, ...], steps: Steps, problems: Problems
) -> None:
    """Report what only modules and containers take."""
    for field in ("args", "limits"):
        if field not in takes and getattr(implementation, field):
            message = f"`{field}` has no meaning for {kind}."
            problems.error("WITHOUT_EFFECT", (*steps, field), message, node.id)
