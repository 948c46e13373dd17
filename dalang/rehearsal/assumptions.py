"""What a rehearsal has to assume because nobody gave it: outputs, conditions and inputs that read them, run inputs.

A node is *known* when its outputs are: given in the rehearsal file, declared as output ports (then they are
placeholders of the ports' types), or those of a ``sleep`` (none) or a ``noop`` (its inputs, where these are known). Of
any other node the outputs are unknown. What reads them cannot be evaluated, and must not fail for that reason alone:

- a condition that reads them is assumed to hold (``unknownConditions: dead``: not to);
- inputs that read them are left as they are written;
- a port, a mapping or a required input that takes them finds null.

Everything else is evaluated as in a run, and fails as in a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dalang.expressions import Expression
from dalang.expressions import compile as compile_expression
from dalang.plan import Plan
from dalang.program import Program
from dalang.templates import Template

_PLACEHOLDERS: Mapping[str, Any] = {
    "string": "",
    "number": 0,
    "integer": 0,
    "boolean": False,
    "object": {},
    "array": [],
}
_FALSE = compile_expression("false")


class RehearsedProgram(Program):
    """A program in which some conditions are decided and some inputs are not evaluated.

    ``decided`` says of an edge's condition whether it holds; the next rehearsal may decide otherwise.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.decided: dict[int, bool] = {}
        self.unread: frozenset[int] = frozenset()
        self._compiled: dict[int, Expression] = {}
        super().__init__(document)
        self.light = ()  # how nodes are handed out changes nothing of what becomes of them
        # Nobody could help where the inputs of an undo read what is only known when something has really happened.
        self.compensations = {node: {**undo, "inputs": {}} for node, undo in self.compensations.items()}

    def condition(self, edge: int) -> Expression | None:
        """Return the condition, unless it is decided."""
        decided = self.decided.get(edge)
        if decided is not None:
            return None if decided else _FALSE
        found = self._compiled.get(edge)
        if found is None:
            source = self.conditions[edge]
            if source is None:
                return None
            found = self._compiled[edge] = compile_expression(source)
        return found

    def container(self, node: int) -> dict[str, Any] | None:
        """Return None: a plan, map or loop node is rehearsed as one piece of work, with assumed outputs."""
        return None

    def inputs_template(self, node: int) -> Template | None:
        """Return the template, unless it reads what nobody knows."""
        return None if node in self.unread else super().inputs_template(node)

    def task_template(self, node: int) -> Template | None:
        """Return None: what a task says and whom it asks makes no difference."""
        return None

    def leave_unread(self, nodes: Iterable[int], *, outputs: bool) -> None:
        """Take these nodes' inputs, and with ``outputs`` the plan's outputs, as they are written."""
        self.unread = frozenset(nodes)
        if outputs:
            self.outputs_template = None


def placeholder(schema: Mapping[str, Any]) -> Any:
    """Return a value for what a JSON Schema describes: its default, a constant or example of it, else an empty one."""
    for name in ("default", "const"):
        if name in schema:
            return schema[name]
    for name in ("examples", "enum"):
        values = schema.get(name)
        if isinstance(values, (list, tuple)) and values:
            return values[0]
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind in ("number", "integer"):
        lowest = schema.get("minimum")
        return lowest if isinstance(lowest, (int, float)) and lowest > 0 else 0
    found = _PLACEHOLDERS.get(kind)
    return found.copy() if isinstance(found, (dict, list)) else found


def declared_outputs(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return placeholders for the outputs of nodes that declare them; ports with a default fill themselves."""
    return {
        node.node_id: {
            port.name: placeholder({"type": port.type})
            for port in node.descriptor.outputs
            if port.default_value is None
        }
        for node in plan.all_nodes()
        if node.descriptor is not None and node.descriptor.outputs
    }


def echoes(document: Mapping[str, Any]) -> bool:
    """Tell whether a node's outputs are its inputs: a ``noop``, and a human node that asks for no values."""
    return document["type"] == "noop" or (document["type"] == "human" and "form" not in document.get("task", {}))


def unknown_nodes(program: Program, known: Mapping[str, Any]) -> set[int]:
    """Return the nodes whose outputs nobody knows; ``known`` has those that are given or declared."""
    unknown: set[int] = set()
    readers: dict[int, list[int]] = {}
    todo: list[int] = []
    for node, kind in enumerate(program.types):
        if program.ids[node] in known or kind == "sleep":
            continue
        if not echoes(program.nodes[node]):
            unknown.add(node)
            todo.append(node)
            continue
        for source in {program.sources[edge] for edge in program.edges_in[node]} | set(template_reads(program, node)):
            readers.setdefault(source, []).append(node)
    while todo:
        for reader in readers.get(todo.pop(), ()):
            if reader not in unknown:
                unknown.add(reader)
                todo.append(reader)
    return unknown


def template_reads(program: Program, node: int) -> list[int]:
    """Return the nodes whose outputs the inputs of ``node`` read."""
    return _reads(program, program.inputs_template(node))


def output_reads(program: Program) -> list[int]:
    """Return the nodes whose outputs the plan's outputs read."""
    return _reads(program, program.outputs_template)


def condition_reads(program: Program, edge: int) -> list[int]:
    """Return the nodes whose outputs the condition of ``edge`` reads."""
    expression = program.condition(edge)
    if expression is None:
        return []
    own = [program.sources[edge]] if "outputs" in expression.variables else []
    return [*own, *_output_paths(program, expression)]


def _reads(program: Program, template: Template | None) -> list[int]:
    if template is None:
        return []
    return list(dict.fromkeys(node for _, one in template.expressions for node in _output_paths(program, one)))


def _output_paths(program: Program, expression: Expression) -> Iterator[int]:
    for path in expression.node_paths:
        if len(path) < 2 or path[1] == "outputs":
            yield program.index[path[0]]


def nulls(program: Program, node: int) -> dict[str, Any]:
    """Return the outputs that are assumed of an unknown node: null for each key that the plan takes from it."""
    keys: dict[str, None] = {}
    for edge in program.edges_out[node]:
        if program.is_error_port(edge):
            continue
        mapping, port = program.mappings[edge], program.ports[edge]
        if not program.is_success_port(edge):
            keys[port] = None
        if mapping is not None:
            keys.update(dict.fromkeys(mapping))
        elif program.target_ports[edge] is None:
            ports = program.nodes[program.targets[edge]].get("ports") or ()
            own = program.nodes[program.targets[edge]].get("inputs") or {}
            keys.update({name: None for name, required, default in ports if required and default is None})
            for name in own:
                keys.pop(name, None)
    return dict.fromkeys(keys)
