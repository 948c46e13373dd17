"""Ports: what descriptors declare, and what edges use. A node that declares no ports takes and gives anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dalang.errors import ErrorPayload
from dalang.plan import ERROR_PORT, REJECTED_PORT, SUCCESS_PORT, Edge, Port
from dalang.validation.node_types import could_be_brought
from dalang.validation.report import Problems, Steps, kind_of
from dalang.validation.structure import Draft, EdgeAt, NodeAt

PORT_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null", "any")
_ERROR_KEYS: Mapping[str, str] = {
    "error": "object",
    **{field.alias or name: "any" for name, field in ErrorPayload.model_fields.items()},
}


def check_ports(draft: Draft, problems: Problems) -> None:
    """Check the ports of every node and the ports that edges use."""
    for node in draft.nodes:
        if node.model is not None and node.model.descriptor is not None:
            _check_declared(node, node.model.descriptor.inputs, "inputs", problems)
            _check_declared(node, node.model.descriptor.outputs, "outputs", problems)
            _check_required(draft, node, problems)
    for edge in draft.edges:
        if edge.model is not None:
            _Connection(draft, edge, edge.model, problems).check()


def types_meet(source: str, target: str) -> bool:
    """Tell whether a value of the one type can be one of the other."""
    return "any" in (source, target) or source == target or {source, target} == {"integer", "number"}


def value_fits(value: Any, kind: str) -> bool:
    """Tell whether a JSON value is of a port's type; of a type that is no JSON type anything is."""
    if kind in ("number", "integer"):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and (kind == "number" or float(value).is_integer())
    kinds: dict[str, Any] = {"string": str, "boolean": bool, "object": Mapping, "array": (list, tuple)}
    if kind == "null":
        return value is None
    return kind not in kinds or isinstance(value, kinds[kind])


def _check_declared(node: NodeAt, ports: Sequence[Port], side: str, problems: Problems) -> None:
    seen: set[str] = set()
    for index, port in enumerate(ports):
        steps: Steps = (*node.steps, "descriptor", side, index)
        if port.name in seen:
            message = f"`{node.id}` declares `{port.name}` twice in {side}."
            problems.error("DUPLICATE_PORT", (*steps, "name"), message, node.id)
        seen.add(port.name)
        if side == "outputs" and port.name in (SUCCESS_PORT, ERROR_PORT):
            message = f"`{port.name}` is a fixed port and never matched against outputs; give this output another name."
            problems.error("RESERVED_PORT", (*steps, "name"), message, node.id)
        if port.type not in PORT_TYPES:
            hint = problems.hint(port.type, PORT_TYPES) or f"; these are {', '.join(PORT_TYPES)}."
            problems.warning("UNKNOWN_PORT_TYPE", (*steps, "type"), f"`{port.type}` is no JSON type{hint}", node.id)
        if port.default_value is not None and not value_fits(port.default_value, port.type):
            message = f"The default of `{port.name}` is {kind_of(port.default_value)}, but its type is {port.type}."
            problems.error("BAD_DEFAULT", (*steps, "defaultValue"), message, node.id)


def _check_required(draft: Draft, node: NodeAt, problems: Problems) -> None:
    assert node.model is not None
    assert node.model.descriptor is not None
    for index, port in enumerate(node.model.descriptor.inputs):
        if not port.required or port.default_value is not None or port.name in node.model.inputs:
            continue
        if not could_be_brought(draft, node, port.name):
            message = (
                f"The required input `{port.name}` of `{node.id}` is never there: give it in `inputs`, by an edge, or"
                " as defaultValue."
            )
            problems.error("MISSING_INPUT", (*node.steps, "descriptor", "inputs", index), message, node.id)


class _Connection:
    """What one edge connects."""

    def __init__(self, draft: Draft, edge: EdgeAt, model: Edge, problems: Problems) -> None:
        self._edge = edge
        self._model = model
        self._problems = problems
        self._source = draft.nodes[edge.source]
        self._target = draft.nodes[edge.target]
        self._outputs = _types(self._source, "outputs")
        asks = self._source.model is not None and self._source.model.type == "human"
        self._fixed = (SUCCESS_PORT, ERROR_PORT, REJECTED_PORT) if asks else (SUCCESS_PORT, ERROR_PORT)
        self._inputs = _types(self._target, "inputs")

    def check(self) -> None:
        model = self._model
        if model.source_port not in self._fixed and not self._known_output(model.source_port):
            self._unknown(("sourcePort",), self._source.id, "output", model.source_port, self._outputs)
        if model.mapping is not None:
            self._mapping(model.mapping)
        elif model.target_port is not None:
            if not self._known_input(model.target_port):
                self._unknown(("targetPort",), self._target.id, "input", model.target_port, self._inputs)
            whole = model.source_port in self._fixed
            carried = "object" if whole else self._outputs.get(model.source_port, "any")
            what = "error" if model.source_port == ERROR_PORT else "all outputs" if whole else model.source_port
            self._meet(("targetPort",), what, carried, model.target_port)

    def _mapping(self, mapping: Mapping[str, str]) -> None:
        failed = self._model.source_port == ERROR_PORT
        outputs = _ERROR_KEYS if failed else self._outputs
        for key, target in mapping.items():
            steps = ("mapping", key)
            if outputs and key not in outputs:
                what = "field of the error" if failed else "output"
                self._unknown(steps, self._source.id, what, key, outputs)
            if not self._known_input(target):
                self._unknown(steps, self._target.id, "input", target, self._inputs)
            self._meet(steps, key, outputs.get(key, "any"), target)

    def _known_output(self, name: str) -> bool:
        return not self._outputs or name in self._outputs

    def _known_input(self, name: str) -> bool:
        return not self._inputs or name in self._inputs

    def _unknown(self, steps: Steps, node: str, what: str, name: str, known: Mapping[str, str]) -> None:
        hint = self._problems.hint(name, known) or f"; there are {', '.join(list(known)[:10])}."
        message = f"`{node}` has no {what} `{name}`{hint}"
        self._problems.error("UNKNOWN_PORT", (*self._edge.steps, *steps), message, edge=self._edge.id)

    def _meet(self, steps: Steps, name: str, carried: str, target: str) -> None:
        wanted = self._inputs.get(target, "any")
        if not types_meet(carried, wanted):
            message = (
                f"`{name}` of `{self._source.id}` is of type {carried}, but `{target}` of `{self._target.id}` takes"
                f" {wanted}; map another output, or change the type."
            )
            self._problems.error("PORT_TYPE_MISMATCH", (*self._edge.steps, *steps), message, edge=self._edge.id)


def _types(node: NodeAt, side: str) -> dict[str, str]:
    descriptor = node.model.descriptor if node.model is not None else None
    if descriptor is None:
        return {}
    return {port.name: port.type for port in (descriptor.inputs if side == "inputs" else descriptor.outputs)}
