"""What flows along edges: contexts of expressions, inputs of nodes, ports. Pure functions over a program.

DESIGN section 3: a node's inputs are its own, then, for each live edge in plan order, what its mapping, its target
port or its source port says. Values are passed by reference and never changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dalang.errors import ErrorPayload, ErrorType
from dalang.expressions import ExpressionError
from dalang.plan import ERROR_PORT
from dalang.program import Program


class InvalidInputs(Exception):
    """A node's inputs cannot be made: it fails, without starting, with ``message`` and ``details``."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


def validation_error(message: str, details: Mapping[str, Any], node_id: str | None = None) -> dict[str, Any]:
    """Return the wire form of a VALIDATION_ERROR: the same data would fail again, so it is not retryable."""
    return ErrorPayload(
        type=ErrorType.VALIDATION_ERROR, message=message, details=dict(details), retryable=False, origin_node=node_id
    ).wire()


def expression_error(place: str, error: ExpressionError, node_id: str | None = None) -> dict[str, Any]:
    """Return the VALIDATION_ERROR for an expression that could not be evaluated; ``place`` says which one it was."""
    return validation_error(
        f"{place} could not be evaluated: {error.message}", {"code": error.code, "expression": place}, node_id
    )


def edge_values(
    program: Program, edge: int, outputs: Mapping[str, Any], error: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a live edge adds to its target's inputs.

    An ``error`` edge carries the ErrorPayload: whole under ``error`` or the target port, or by its fields in a mapping.
    """
    source: Mapping[str, Any] = outputs if error is None else {"error": error, **error}
    mapping = program.mappings[edge]
    if mapping is not None:
        return {target: source[key] for key, target in mapping.items() if key in source}
    whole: Any = outputs if error is None else error
    target_port = program.target_ports[edge]
    if target_port is not None:
        port = program.ports[edge]
        is_whole = program.is_success_port(edge) or port == ERROR_PORT or program.is_rejected_port(edge)
        return {target_port: whole if is_whole else outputs[port]}
    return dict(outputs) if error is None else {"error": error}


def apply_ports(ports: list[list[Any]] | None, values: dict[str, Any], what: str) -> dict[str, Any]:
    """Return ``values`` with the ports' defaults filled in.

    Raises:
        InvalidInputs: a required port has no value.
    """
    if not ports:
        return values
    missing = [name for name, required, default in ports if required and default is None and name not in values]
    if missing:
        names = ", ".join(missing)
        raise InvalidInputs(
            f"the required {what} {names} is missing", {"code": f"MISSING_{what.upper()}", "ports": missing}
        )
    absent = {name: default for name, _, default in ports if default is not None and name not in values}
    return {**values, **absent} if absent else values


def render_inputs(
    program: Program,
    node: int,
    context: Mapping[str, Any],
    carried: list[dict[str, Any]],
    replaced: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the inputs of ``node``: its own, then what its live edges carry, then the ports' defaults.

    ``replaced`` are inputs that somebody has given in place of its own, which are not evaluated then.

    Raises:
        ExpressionError: an expression of its own inputs cannot be evaluated.
        InvalidInputs: a required port has no value.
    """
    own = program.nodes[node].get("inputs")
    template = program.inputs_template(node)
    values: dict[str, Any] = dict(template.render(context, replaced or ())) if template is not None else dict(own or {})
    for value in carried:
        values.update(value)
    values.update(replaced or {})
    return apply_ports(program.nodes[node].get("ports"), values, "input")
